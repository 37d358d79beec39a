"""Name the quality flags of segmentations, each with advice."""

# of a flag in {scan}_desc-quicknat_qc.json, on the scan's page of the report
FLAGS = {
    "structure_missing": "Check in the viewer: is it absent in this head, or was it missed?",
    "thick_slices": "Thin structures blur across thick slices; treat small volumes with caution.",
    "head_cut_off": "Structures near that edge may be cut off; increase 'conform.size'.",
    "implausible_volume": "Either this head is unusual, or the segmentation leaked or failed.",
    "asymmetry": "Compare both sides in the mosaics: is it a lesion, or an error?",
    "other_field": "The networks were not trained on such scans: add some, or match preprocessing.",
    "noisy_background": "Use the denoised image (UNI-DEN), or denoise it, and segment it again.",
    "label_map": "Labels were given instead of a scan: do not use this segmentation.",
    "other_modality": "The networks were trained on T1w MRI only: do not use this segmentation.",
    "other_contrast": "Check the sequence; other contrasts need networks trained on them.",
}


def raised(flag: str, reason: str) -> dict[str, str]:
    """Return a flag with the reason why it was raised, as ``…_desc-quicknat_qc.json`` has it."""
    if flag not in FLAGS:
        raise KeyError(f"quality flag '{flag}' has no advice")
    return {"flag": flag, "reason": reason}
