"""micro-sam: stored embeddings, automatic masks from `amg` alone, and a step of training."""

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torchvision.ops.boxes import batched_nms

import mobile_sam.utils.amg as amg_utils
from mobile_sam import sam_model_registry
from mobile_sam.modeling import Sam
from mobile_sam.predictor import SamPredictor
from mobile_sam.utils.transforms import ResizeLongestSide

CROP = [0, 0, 640, 480]


def batch_of(predictor: SamPredictor, points: np.ndarray, size: tuple[int, int]) -> Any:
    """Masks of points (N, 2) as columns of `MaskData`."""
    moved = predictor.transform.apply_coords(points, size)
    coords = torch.as_tensor(moved, device=predictor.device, dtype=torch.float)
    labels = torch.ones(coords.shape[0], dtype=torch.int, device=coords.device)
    masks, iou, _ = predictor.predict_torch(
        coords[:, None, :], labels[:, None], multimask_output=True, return_logits=True
    )
    data = amg_utils.MaskData(masks=masks.flatten(0, 1), iou_preds=iou.flatten(0, 1))
    data["points"] = torch.as_tensor(points.repeat(masks.shape[1], axis=0), dtype=torch.float)
    threshold = predictor.model.mask_threshold
    data["stability_score"] = amg_utils.calculate_stability_score(data["masks"], threshold, 0.02)
    data["masks"] = data["masks"] > threshold
    data["boxes"] = amg_utils.batched_mask_to_box(data["masks"])
    data["masks"] = amg_utils.uncrop_masks(data["masks"], CROP, *size)
    data["rles"] = amg_utils.mask_to_rle_pytorch(data["masks"])
    del data["masks"]
    return data


def kept(data: Any) -> Any:
    """Good and stable ones, without duplicates, in the image's frame."""
    data = deepcopy(data)
    data.filter(data["iou_preds"] > 0.75)
    data.filter(data["stability_score"] >= 0.5)
    data.filter(~amg_utils.is_box_near_crop_edge(data["boxes"], CROP, CROP))
    same = torch.zeros_like(data["boxes"][:, 0])
    data.filter(batched_nms(data["boxes"].float(), data["iou_preds"], same, iou_threshold=0.7))
    data["boxes"] = amg_utils.uncrop_boxes_xyxy(data["boxes"], CROP)
    data["points"] = amg_utils.uncrop_points(data["points"], CROP)
    data["crop_boxes"] = torch.tensor([CROP for _ in data["rles"]])
    data.to_numpy()
    return data


def smooth(rle: dict[str, Any]) -> dict[str, Any]:
    """A mask without small regions, and how it is written."""
    mask = amg_utils.rle_to_mask(rle)
    mask, changed = amg_utils.remove_small_regions(mask, 300, mode="holes")
    mask, other = amg_utils.remove_small_regions(mask, 300, mode="islands")
    again = amg_utils.mask_to_rle_pytorch(torch.as_tensor(mask).unsqueeze(0))[0]
    return {
        "changed": changed or other,
        "runs": again,
        "text": amg_utils.coco_encode_rle(again),
        "area": amg_utils.area_from_rle(again),
    }


def everything(predictor: SamPredictor, size: tuple[int, int]) -> dict[str, Any]:
    """Masks of a grid, on an image that is set."""
    boxes, layers = amg_utils.generate_crop_boxes(size, 1, 512 / 1500)
    (grid, _) = amg_utils.build_all_layer_point_grids(3, 1, 1)
    data = amg_utils.MaskData()
    for (points,) in amg_utils.batch_iterator(4, grid * np.array(size)[None, ::-1]):
        data.cat(batch_of(predictor, points, size))
    found = kept(data)
    return {
        "crops": [boxes, layers],
        "columns": {name: column for name, column in found.items() if name != "rles"},
        "bbox": [amg_utils.box_xyxy_to_xywh(box).tolist() for box in found["boxes"]],
        "runs": found["rles"],
        "smooth": [smooth(rle) for rle in found["rles"]],
    }


def trained(sam: Sam, embedding: torch.Tensor, size: tuple[int, int]) -> dict[str, Any]:
    """Gradients of a loss of logits and predicted IoU, of which part by part the model is run."""
    transform = ResizeLongestSide(sam.image_encoder.img_size)
    boxes = transform.apply_boxes_torch(torch.tensor([[100, 50, 400, 300]]), size)
    coords = transform.apply_coords_torch(torch.tensor([[[320, 200], [30, 20]]]), size)
    sparse, dense = sam.prompt_encoder(
        points=(coords, torch.tensor([[1, 0]])), boxes=boxes, masks=torch.randn(1, 1, 256, 256)
    )
    low_res, iou = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    masks = sam.postprocess_masks(low_res, input_size=(768, 1024), original_size=size)
    loss = (masks.sigmoid().mean() - 0.5).square() + (iou - 0.3).square().mean()
    loss.backward()
    gradients = {
        name: dict(sam.named_parameters())[name].grad
        for name in (
            "prompt_encoder.point_embeddings.2.weight",
            "prompt_encoder.mask_downscaling.0.weight",
            "mask_decoder.iou_token.weight",
            "mask_decoder.output_upscaling.3.weight",
            "mask_decoder.transformer.layers.1.cross_attn_image_to_token.q_proj.weight",
        )
    }
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    return {
        "low_res": low_res.detach(),
        "masks": masks.detach(),
        "gradients": {k: g / g.abs().max() for k, g in gradients.items()},
    }


def run(weights: str, image: np.ndarray) -> dict[str, Any]:
    """A state dict into a model of the registry; the embedding goes through an array."""
    sam = sam_model_registry["vit_t"]()
    result = sam.load_state_dict(torch.load(weights, weights_only=True))
    sam.train().eval()  # the original caches biases of attention before
    sam.mask_threshold = 0.6
    size = image.shape[:2]
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    stored = predictor.get_image_embedding().cpu().numpy()
    sizes = predictor.original_size, predictor.input_size
    predictor.reset_image()
    predictor.features = torch.from_numpy(stored).to(predictor.device)
    predictor.original_size, predictor.input_size = sizes
    predictor.is_image_set = True
    torch.manual_seed(0)
    return {
        "keys": [list(result.missing_keys), list(result.unexpected_keys)],
        "everything": everything(predictor, size),
        "trained": trained(sam, torch.from_numpy(stored), size),
    }
