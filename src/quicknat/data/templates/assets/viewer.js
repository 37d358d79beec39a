// The interactive viewer of a scan's page: NiiVue, the controls around it, and the text below it.
// Works from disk: NiiVue and the volumes come as scripts, when the viewer is about to be seen.
"use strict";
(() => {
  const box = document.getElementById("viewer");
  if (!box) return;
  const part = (name) => box.querySelector(`[data-viewer="${name}"]`);
  const canvas = part("canvas");
  const canvas3d = part("canvas3d");
  const STEPS = {
    ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1],
    PageUp: [0, 1, 0], PageDown: [0, -1, 0],
  };
  const LABELS = ["prediction", "reference"];
  // outlines of both, where both are shown; as in report.css
  const APART = { prediction: [86, 180, 233], reference: [230, 159, 0] };
  const SOLID = "4"; // of the choice of view, as NiiVue numbers them
  let nv = null; // NiiVue, once it is there
  let solid = null; // NiiVue with the 3-D rendering
  let scan = null; // what volumes/{scan}.js gave
  let loading = null; // promise of both
  const layers = {}; // NiiVue's volumes, by name
  const filled = {}; // label maps as they came, where the volume shows their outlines

  const say = (text) => { part("status").textContent = text; };

  const script = (address) => new Promise((done, failed) => {
    const element = document.createElement("script");
    if (address.startsWith("#")) { // inside a page of one file
      element.textContent = document.querySelector(address).textContent;
      document.head.append(element);
      done();
      return;
    }
    element.src = address;
    element.onload = done;
    element.onerror = () => failed(new Error(`${decodeURIComponent(address)} could not be loaded`));
    document.head.append(element);
  });

  // Contours in the three planes through a voxel, each by the neighbours in its own plane.
  const contours = (labels, [, nx, ny, nz], through) => {
    const edges = new Uint8Array(labels.length);
    const [size, step] = [[nx, ny, nz], [1, nx, nx * ny]];
    for (let flat = 0; flat < 3; flat++) {
      const [a, b] = [0, 1, 2].filter((axis) => axis !== flat);
      for (let i = 1; i < size[a] - 1; i++) for (let j = 1; j < size[b] - 1; j++) {
        const at = through[flat] * step[flat] + i * step[a] + j * step[b];
        const own = labels[at];
        const differs = (other) => labels[at + other] !== own;
        if (own && [step[a], -step[a], step[b], -step[b]].some(differs)) edges[at] = own;
      }
    }
    return edges;
  };

  const shows = (key) => box.querySelector(`[data-layer="${key}"]`)?.checked;

  // Colour a label map; structures for which `visible` says no stay transparent.
  const colour = (volume, choose, visible = () => true) => {
    const colors = [[0, 0, 0, 0]];
    for (const one of scan.structures) colors[one.index] = [...choose(one), visible(one) ? 255 : 0];
    const [R, G, B, A] = [0, 1, 2, 3].map((channel) => colors.map((color) => color[channel]));
    volume.setColormapLabel({ R, G, B, A });
  };

  const paint = () => {
    const [outlined, safe] = [part("outline").checked, part("safe").checked];
    const both = outlined && LABELS.every(shows);
    part("key").hidden = !both;
    for (const key of LABELS.filter((name) => layers[name])) {
      const volume = layers[key];
      const through = nv.frac2vox(nv.scene.crosshairPos);
      volume.img = outlined ? contours(filled[key], volume.hdr.dims, through) : filled[key];
      colour(volume, (one) => {
        if (both) return APART[key];
        if (outlined) return safe ? one.safeOutline : one.outline;
        return safe ? one.safeColor : one.color;
      });
    }
    fade();
  };

  // The 3-D rendering of the prediction.
  const paintSolid = () => {
    if (!solid) return;
    const chosen = Number(part("structures").value);
    const alone = part("solid").value === "one";
    say(alone && !chosen ? "Choose a structure under “Jump to” to see it in 3-D." : "");
    const visible = {
      all: () => true, deep: (one) => !one.outer, one: (one) => one.index === chosen,
    }[part("solid").value];
    const safe = part("safe").checked;
    colour(solid.volumes[0], (one) => (safe ? one.safeColor : one.color), visible);
    solid.updateGLVolume();
  };

  // Also what redraws everything.
  const fade = () => {
    for (const toggle of box.querySelectorAll("[data-layer]")) {
      const key = toggle.dataset.layer;
      const range = box.querySelector(`[data-opacity="${key}"]`);
      range.disabled = !toggle.checked;
      if (layers[key]) layers[key].opacity = toggle.checked ? range.value / 100 : 0;
      if (key === "uncertainty") part("scale").hidden = !toggle.checked;
    }
    nv.updateGLVolume();
  };

  // What lies at a place: structures by name, and values.
  const describe = (mm) => {
    const values = {};
    for (const [key, volume] of Object.entries(layers)) {
      const [x, y, z] = volume.mm2vox(mm);
      const [, nx, ny] = volume.hdr.dims; // axes are stored in the order that NiiVue shows them in
      values[key] = filled[key] ? filled[key][x + nx * (y + ny * z)] : volume.getValue(x, y, z);
    }
    const name = (index) => scan.structures.find((one) => one.index === index)?.name ?? "no structure";
    const found = [`Prediction: ${name(values.prediction)}`];
    if (layers.reference) found.push(`reference: ${name(values.reference)}`);
    // a little less, so that places half-way between whole numbers are rounded to the same side
    const place = [0, 1, 2].map((axis) => Math.round(mm[axis] - 0.01)).join(", ");
    found.push(`${place} mm (right, front, up)`);
    found.push(`image ${values.image.toPrecision(3)}`);
    if (layers.uncertainty) found.push(`uncertainty ${values.uncertainty.toFixed(2)}`);
    return found.join(" · ");
  };

  // NiiVue comes as a notebook's widget, which keeps the class of its viewer to itself. Functions among
  // the options become methods of the viewer that it makes, and this one is called at once.
  const viewerClass = async () => {
    let made = null;
    const opts = { drawingEnabled: true, createEmptyDrawing() { made = this; } };
    const model = { get: (key) => (key === "opts" ? opts : undefined), on() {}, off() {} };
    await window.niivue.default.initialize({ model });
    return made.constructor;
  };

  const packed = (key) => (
    { url: `data:application/gzip;base64,${scan[key]}`, name: `${key}.nii.gz` });

  // The image's axial slices are tiles of a picture, which is a quarter of what they are without loss.
  const untiled = async (key) => {
    const { header, tiles, columns } = scan[key];
    const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const head = bytes(header);
    const [nx, ny, nz] = new Int16Array(head.buffer, 42, 3);
    const blob = new Blob([bytes(tiles)], { type: "image/webp" });
    const sheet = await createImageBitmap(blob, { colorSpaceConversion: "none" });
    const paper = Object.assign(document.createElement("canvas"), { width: nx, height: ny });
    const context = paper.getContext("2d", { willReadFrequently: true });
    const file = new Uint8Array(head.length + nx * ny * nz);
    file.set(head);
    for (let z = 0; z < nz; z++) {
      context.drawImage(sheet, -nx * (z % columns), -ny * Math.floor(z / columns));
      const { data } = context.getImageData(0, 0, nx, ny);
      const first = head.length + z * nx * ny;
      for (let at = 0; at < nx * ny; at++) file[first + at] = data[4 * at];
    }
    return { url: URL.createObjectURL(new Blob([file])), name: `${key}.nii` };
  };

  const show = async () => {
    const given = new Promise((done) => { window.quicknatVolumes = done; });
    await Promise.all([script(box.dataset.niivue), script(box.dataset.volumes)]);
    scan = await given;
    const Niivue = await viewerClass();
    const plain = { logLevel: "error", loadingText: "", dragAndDropEnabled: false,
      scrollRequiresFocus: true, isColorbar: false };
    nv = new Niivue({
      ...plain,
      isRadiologicalConvention: part("radiological").checked, sliceType: 3, multiplanarShowRender: 0, dragMode: 9,
      multiplanarPadPixels: 4, crosshairColor: [1, 1, 1, 0.8], crosshairGap: 6, crosshairWidth: 0.5,
      fontColor: [1, 1, 1, 1], fontMinPx: 16, showAllOrientationMarkers: true, isForceMouseClickToVoxelCenters: true,
    });
    let waiting = false; // to draw the contours in the planes of the new place
    nv.onLocationChange = (place) => {
      part("where").textContent = describe(place.mm);
      if (!part("outline").checked || waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; paint(); });
    };
    await nv.attachToCanvas(canvas);
    const shown = ["image", ...LABELS, "uncertainty"].filter((name) => scan[name]);
    await nv.loadVolumes(await Promise.all(shown.map(async (key) => ({
      ...(LABELS.includes(key) ? packed(key) : await untiled(key)),
      ...(key === "uncertainty" ? { colormap: "inferno", cal_min: 0.05, cal_max: 1 } : {}),
    }))));
    const { dims, pixDims } = nv.volumes[0].hdr;
    for (const [axis, name] of ["--x", "--y", "--z"].entries()) {
      part("stage").style.setProperty(name, dims[axis + 1] * pixDims[axis + 1]);
    }
    solid = new Niivue({
      ...plain, sliceType: 4, backColor: [0, 0, 0, 1], isOrientCube: true, show3Dcrosshair: false,
    });
    await solid.attachToCanvas(canvas3d);
    await solid.loadVolumes([packed("prediction")]);
    solid.setRenderAzimuthElevation(120, 15);
    for (const [number, key] of shown.entries()) {
      layers[key] = nv.volumes[number];
      delete scan[key]; // megabytes
      if (LABELS.includes(key)) filled[key] = layers[key].img;
    }
    for (const one of scan.structures) {
      const choice = new Option(one.name + (one.centre ? "" : " (not found)"), one.index);
      choice.disabled = !one.centre;
      part("structures").append(choice);
    }
    nv.scene.crosshairPos = nv.vox2frac(nv.frac2vox(nv.scene.crosshairPos)); // as clicks do
    nv.setRadiologicalConvention(part("radiological").checked); // may have changed meanwhile
    paint();
    paintSolid();
    layout();
    box.classList.add("viewer-ready");
    part("controls").disabled = false;
    nv.createOnLocationChange();
    say("");
  };

  // One plane, the 3-D rendering, or all: in a row, or two by two where the page is narrow.
  const layout = () => {
    const view = part("view").value;
    part("stage").dataset.view = view;
    if (!nv) return;
    const narrow = window.matchMedia("(max-width: 48rem)").matches;
    nv.setMultiplanarLayout(narrow ? 2 : 3);
    if (view !== SOLID) nv.setSliceType(Number(view));
  };

  const absent = (reason) => {
    box.classList.add("viewer-absent");
    say(`${reason} The pictures on this page show the same segmentation.`);
  };

  const load = () => {
    if (!loading) {
      say("Loading the volumes …");
      loading = show().catch((error) => {
        absent(`The viewer could not start: ${error.message}.`);
        throw error;
      });
      loading.catch(() => {}); // said above
    }
    return loading;
  };

  // Move the planes to a structure of the table, once everything is there.
  const jump = async (index) => {
    const gently = !window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    box.scrollIntoView({ behavior: gently ? "smooth" : "auto", block: "start" });
    if (box.classList.contains("viewer-absent")) return;
    await load();
    const structure = scan.structures.find((one) => one.index === Number(index));
    if (!structure) return;
    if (!structure.centre) {
      part("where").textContent = `${structure.name}: absent from both label maps`;
      return;
    }
    part("structures").value = structure.index;
    if (part("solid").value === "one") paintSolid();
    nv.scene.crosshairPos = nv.mm2frac(structure.centre);
    nv.drawScene();
    nv.createOnLocationChange();
  };
  window.quicknatViewer = { jump };

  let last = ""; // structure that a link led to: its next click leads to the other side
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-structure]");
    if (!link) return;
    event.preventDefault();
    const sides = link.dataset.structure.split(" ");
    last = sides[(sides.indexOf(last) + 1) % sides.length];
    jump(last).catch(() => {});
  });

  const probe = document.createElement("canvas").getContext("webgl2");
  if (!probe) {
    absent("The viewer needs WebGL 2, which this browser does not provide.");
    return;
  }
  probe.getExtension("WEBGL_lose_context")?.loseContext();

  part("structures").addEventListener("change", (event) => {
    if (event.target.value) jump(event.target.value);
  });
  for (const name of ["outline", "safe"]) part(name).addEventListener("change", paint);
  for (const name of ["solid", "safe"]) part(name).addEventListener("change", paintSolid);
  part("view").addEventListener("change", layout);
  window.matchMedia("(max-width: 48rem)").addEventListener("change", layout);
  // the mosaics of the page turn with the viewer, and the viewer with them
  const turn = "[data-viewer=radiological], input[value=radiological]";
  document.addEventListener("change", ({ target }) => {
    if (!target.matches(turn)) return;
    for (const other of document.querySelectorAll(turn)) other.checked = target.checked;
    nv?.setRadiologicalConvention(target.checked);
  });
  for (const input of box.querySelectorAll("[data-opacity]")) input.addEventListener("input", fade);
  for (const toggle of box.querySelectorAll("[data-layer]")) toggle.addEventListener("input", paint);
  canvas.addEventListener("mousemove", (event) => {
    if (!nv || event.buttons) return;
    const ratio = canvas.width / canvas.clientWidth;
    const at = nv.canvasPos2frac([event.offsetX * ratio, event.offsetY * ratio]);
    part("pointer").textContent = at[0] < 0 ? "" : `Under the pointer: ${describe(nv.frac2mm(at))}`;
  });
  canvas.addEventListener("mouseleave", () => { part("pointer").textContent = ""; });
  // before NiiVue's own keys, which would change the view in ways that this page does not explain
  for (const kind of ["keydown", "keyup"]) {
    canvas.addEventListener(kind, (event) => {
      event.stopImmediatePropagation();
      if (!nv || !STEPS[event.key]) return;
      event.preventDefault();
      if (kind === "keyup") return;
      const [x, y, z] = STEPS[event.key];
      nv.moveCrosshairInVox(part("radiological").checked ? -x : x, y, z);
    }, true);
    canvas3d.addEventListener(kind, (event) => {
      event.stopImmediatePropagation();
      if (!solid || !event.key.startsWith("Arrow")) return;
      event.preventDefault();
      const [x, , z] = STEPS[event.key];
      const { renderAzimuth, renderElevation } = solid.scene;
      if (kind === "keydown") solid.setRenderAzimuthElevation(renderAzimuth + 10 * x, renderElevation + 10 * z);
    }, true);
  }
  for (const one of [canvas, canvas3d]) { // the wheel scrolls the page until the viewer was clicked
    one.addEventListener("wheel", (event) => {
      if (document.activeElement !== one) event.stopImmediatePropagation();
    }, true);
  }
  box.addEventListener("focusin", () => load().catch(() => {}), { once: true });
  const sight = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    sight.disconnect();
    load().catch(() => {});
  }, { rootMargin: "300px" });
  sight.observe(box);
})();
