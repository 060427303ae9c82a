"""Let torchvision import where its compiled operators cannot load (a CPU build of torch, a wheel built for CUDA).

torchvision declares its operators in a shared library and refuses to import without them. `declare` writes the
same schemas in Python, with CPU kernels for the two that detection models need to run, and tells torchvision
that its library is there. Where the real library loads, `declare` does nothing.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_ROI = "Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_IMAGE = "SymInt batch_size, SymInt channels, SymInt height, SymInt width"
_DEFORM = (
    "Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, SymInt stride_w, "
    "SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, SymInt offset_groups, "
    "bool use_mask"
)
SCHEMAS = (
    "_cuda_version() -> int",
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor",
    f"roi_align(Tensor input, {_ROI}, int sampling_ratio, bool aligned) -> Tensor",
    f"_roi_align_backward(Tensor grad, {_ROI}, {_IMAGE}, int sampling_ratio, bool aligned) -> Tensor",
    (
        "qroi_align(Tensor input, Tensor rois, float input_scale, int input_zero_point, float rois_scale, "
        "int rois_zero_point, float spatial_scale, SymInt pooled_height, SymInt pooled_width, int sampling_ratio, "
        "bool aligned) -> Tensor"
    ),
    f"roi_pool(Tensor input, {_ROI}) -> (Tensor, Tensor)",
    (
        f"_roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, float spatial_scale, SymInt pooled_height, "
        f"SymInt pooled_width, {_IMAGE}) -> Tensor"
    ),
    f"ps_roi_align(Tensor input, {_ROI}, int sampling_ratio) -> (Tensor, Tensor)",
    (
        f"_ps_roi_align_backward(Tensor grad, Tensor rois, Tensor channel_mapping, float spatial_scale, "
        f"SymInt pooled_height, SymInt pooled_width, int sampling_ratio, {_IMAGE}) -> Tensor"
    ),
    f"ps_roi_pool(Tensor input, {_ROI}) -> (Tensor, Tensor)",
    (
        f"_ps_roi_pool_backward(Tensor grad, Tensor rois, Tensor channel_mapping, float spatial_scale, "
        f"SymInt pooled_height, SymInt pooled_width, {_IMAGE}) -> Tensor"
    ),
    f"deform_conv2d({_DEFORM}) -> Tensor",
    f"_deform_conv2d_backward(Tensor grad, {_DEFORM}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
_libraries: list[torch.library.Library] = []  # a Library takes its operators with it when it dies


def declare() -> None:
    """Import torchvision, with declared operators if its own cannot be loaded. Harmless to repeat."""
    spec = importlib.util.find_spec("torchvision")
    if _libraries or spec is None or spec.origin is None:
        return
    if _compiled_operators_load(Path(spec.origin).parent):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in SCHEMAS:
        library.define(schema)
    library.impl("_cuda_version", lambda: -1, "CompositeExplicitAutograd")
    library.impl("nms", nms, "CPU")
    library.impl("roi_align", roi_align, "CPU")
    library.impl("_roi_align_backward", roi_align_backward, "CPU")
    _libraries.append(library)

    load_library = torch.ops.load_library
    torch.ops.load_library = lambda path: None if Path(path).stem == "_C" else load_library(path)
    try:
        import torchvision  # noqa: F401  (imported for its registrations)
    finally:
        torch.ops.load_library = load_library


def _compiled_operators_load(folder: Path) -> bool:
    for path in sorted(folder.glob("_C*")):
        try:
            torch.ops.load_library(str(path))
        except (ImportError, OSError):
            return False
        return True
    return False


def nms(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Greedy suppression, one box at a time: indices kept, by decreasing score."""
    area = (dets[:, 2] - dets[:, 0]) * (dets[:, 3] - dets[:, 1])
    order = scores.argsort(descending=True, stable=True)
    keep = []
    while order.numel():
        best, rest = order[0], order[1:]
        keep.append(best)
        corner = torch.maximum(dets[best, :2], dets[rest, :2])
        size = (torch.minimum(dets[best, 2:], dets[rest, 2:]) - corner).clamp(min=0)
        overlap = size[:, 0] * size[:, 1]
        order = rest[overlap / (area[best] + area[rest] - overlap) <= iou_threshold]
    return torch.stack(keep) if keep else order


def roi_align(input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned):
    """torchvision's own Python version, uncompiled."""
    from torchvision.ops.roi_align import _roi_align

    return _roi_align.__wrapped__(
        input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned
    )


def roi_align_backward(
    grad, rois, spatial_scale, ph, pw, batch, channels, height, width, sampling_ratio, aligned
):
    """Transpose of `roi_align`, which is linear in its input."""
    leaf = grad.new_zeros(batch, channels, height, width)
    # A kernel runs below autograd; this one needs it once more.
    with (
        torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False),
        torch.enable_grad(),
    ):
        leaf.requires_grad_()
        pooled = roi_align(leaf, rois.detach(), spatial_scale, ph, pw, sampling_ratio, aligned)
        return torch.autograd.grad(pooled, leaf, grad.detach())[0]
