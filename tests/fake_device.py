"""A GPU without one: tensors that say they are on another device, with numbers on the CPU."""

from collections import Counter

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

SYNCHRONISING = {"_local_scalar_dense", "nonzero", "bincount"}

# here, since torch starts the threads of all devices that it knows with the first backward pass
backend_registration._setup_privateuseone_for_python_backend("fake")
DEVICE = torch.device("fake", 0)  # torch knows it by name only


class There(torch.Tensor):
    """A tensor of the fake device; its numbers are on the CPU."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=DEVICE,
        )  # fmt: skip

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} outside the fake device")

    def tolist(self):
        return self.cpu().tolist()


class FakeDevice(TorchDispatchMode):
    """Computes on the fake device, refuses to mix it with the CPU, and counts waits for it."""

    def __init__(self, largest=1 << 40):
        super().__init__()
        self.largest, self.waits = largest, Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = function.overloadpacket.__name__
        tensors = [part for part in tree_leaves((args, kwargs)) if isinstance(part, torch.Tensor)]
        if len({isinstance(part, There) for part in tensors if part.ndim}) > 1:
            raise RuntimeError(f"{name} of tensors on two devices")
        known = {id(part.held): part for part in tensors if isinstance(part, There)}
        to = next(
            (part for part in (*args, *kwargs.values()) if isinstance(part, torch.device)), ""
        )
        result_there = to == DEVICE if to else bool(known)
        if known and (name in SYNCHRONISING or not result_there):
            self.waits[name] += 1
        cpu = torch.device("cpu")

        def bare(part):
            if isinstance(part, torch.device):
                return cpu
            return part.held if isinstance(part, There) else part

        def kept(part):
            if not isinstance(part, torch.Tensor) or not result_there:
                return part
            if id(part) not in known and part.untyped_storage().nbytes() > self.largest:
                raise torch.OutOfMemoryError("the fake device is full. It is small.")
            return known[id(part)] if id(part) in known else There(part)

        found = function(*(tree_map(bare, part) for part in args), **tree_map(bare, kwargs))
        return tree_map(kept, found)


def moved_to(module, device=DEVICE, memory_format=torch.preserve_format):
    """Move a network to the fake device, which its method `to` cannot; returns it."""
    for part in module.modules():
        for kept in (part._parameters, part._buffers):
            for name, value in kept.items():
                if value is not None:
                    form = memory_format if value.ndim == 4 else torch.preserve_format
                    moved = value.detach().to(device, memory_format=form)
                    kept[name] = torch.nn.Parameter(moved, value.requires_grad)
    return module


class Generator(torch.Generator):
    """A generator of the fake device, whose numbers are those of the CPU."""

    def __new__(cls, device):
        return super().__new__(cls)

    def __init__(self, device):
        self.of = torch.device(device)

    @property
    def device(self):
        return self.of

    def manual_seed(self, seed):
        super().manual_seed(seed)
        return self


def drawn_on_the_cpu(draw):
    """Return `torch.rand` or the like for a generator of the fake device."""

    def there(size, *, generator, device):
        assert generator.device == torch.device(device)
        with _disable_current_modes():
            numbers = draw(size, generator=generator)
        return numbers.to(device)

    return there
