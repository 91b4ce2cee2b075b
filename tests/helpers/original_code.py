"""Runs the original MobileSAM, SAM and LVIS code; started as a script in a process of its own.

    PYTHONPATH=ORACLE python original_code.py TASK INPUT OUTPUT

ORACLE holds the original packages, one of which has the name of ours. INPUT and OUTPUT are files
of `torch.save`.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

Task = dict[str, Any]


def mobile_sam(task: Task) -> Any:
    from mobile_sam.build_sam import build_sam_vit_t

    model = build_sam_vit_t()
    if task.get("state") is not None:
        model.load_state_dict(task["state"], strict=True)
    # The biases of attention are cached by the first `eval`, before any state is loaded.
    return model.train().eval()


def sam_encoder(task: Task) -> Any:
    from segment_anything.modeling import ImageEncoderViT

    encoder = ImageEncoderViT(
        img_size=1024,
        patch_size=16,
        embed_dim=task["width"],
        depth=task["depth"],
        num_heads=task["num_heads"],
        global_attn_indexes=task["global_blocks"],
        mlp_ratio=4,
        qkv_bias=True,
        use_rel_pos=True,
        window_size=14,
        out_chans=256,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    )
    encoder.load_state_dict(task["state"], strict=True)
    return encoder.eval()


def encode(task: Task) -> Any:
    """Embedding of `images` by a whole MobileSAM."""
    return mobile_sam(task).image_encoder(task["images"])


def encode_sam(task: Task) -> Any:
    """Embedding of `images` by SAM's encoder of the given size."""
    return sam_encoder(task)(task["images"])


def embed_prompts(task: Task) -> Any:
    """Sparse and dense embeddings of each prompt in `prompts`, and the dense positions."""
    encoder = mobile_sam(task).prompt_encoder
    found = [encoder(p.get("points"), p.get("boxes"), p.get("masks")) for p in task["prompts"]]
    return found, encoder.get_dense_pe()


def decode(task: Task) -> Any:
    """Logits and predicted IoU with and without `multimask`."""
    model = mobile_sam(task)
    sparse, dense = model.prompt_encoder(None, task["boxes"], None)
    return [
        model.mask_decoder(
            task["embedding"], model.prompt_encoder.get_dense_pe(), sparse, dense, multimask
        )
        for multimask in (False, True)
    ]


def predict(task: Task) -> Any:
    """`SamPredictor.predict` on an image, for each set of keyword arguments."""
    from mobile_sam import SamPredictor

    predictor = SamPredictor(mobile_sam(task))
    predictor.set_image(task["image"].numpy())
    frame = predictor.model.preprocess(
        torch.as_tensor(predictor.transform.apply_image(task["image"].numpy()))
        .permute(2, 0, 1)[None]
        .contiguous()
    )
    answers = []
    for prompt in task["prompts"]:
        arguments = {key: value.numpy() for key, value in prompt.items()}
        for multimask in (False, True):
            logits, iou, low = predictor.predict(
                **arguments, multimask_output=multimask, return_logits=True
            )
            answers.append(tuple(map(torch.from_numpy, (logits, iou, low))))
    return frame, answers


def automatic(task: Task) -> Any:
    """Records of `SamAutomaticMaskGenerator` on an image, for each set of `options`."""
    from mobile_sam import SamAutomaticMaskGenerator

    model = mobile_sam(task)
    model.mask_threshold = task["mask_threshold"]
    answers = []
    for options in task["options"]:
        if "point_grids" in options:
            options["point_grids"] = [grid.numpy() for grid in options["point_grids"]]
        records = SamAutomaticMaskGenerator(model, **options).generate(task["image"].numpy())
        for record in records:
            if not isinstance(record["segmentation"], dict):
                record["segmentation"] = torch.from_numpy(record["segmentation"].copy())
        answers.append(records)
    return answers


def random_state(task: Task) -> Any:
    """The state of an original model, and its embedding of `images`."""
    torch.manual_seed(5)
    model = mobile_sam({})
    for name, value in model.named_parameters():
        if "attention_biases" in name:
            torch.nn.init.normal_(value)
    model.train().eval()
    return model.state_dict(), model.image_encoder(task["images"])


def states(task: Task) -> Any:
    """The states of the original MobileSAM, and of SAM with ViT-B."""
    from segment_anything.build_sam import build_sam_vit_b

    return {"mobile": mobile_sam({}).state_dict(), "sam": build_sam_vit_b().state_dict()}


def evaluate_lvis(task: Task) -> Any:
    """LVIS' measures of masks for each of `cases`: truth, results, and chosen images or None."""
    import numpy as np

    np.float = float  # NumPy 2 has the name no more
    from lvis import LVIS, LVISEval, LVISResults

    answers = []
    for annotations, results, image_ids in task["cases"]:
        Path("lvis.json").write_text(json.dumps(annotations))
        truth = LVIS("lvis.json")
        evaluation = LVISEval(truth, LVISResults(truth, results), "segm")
        if image_ids is not None:
            evaluation.params.img_ids = image_ids
        evaluation.run()
        answers.append({name: float(value) for name, value in evaluation.get_results().items()})
    return answers


def main() -> None:
    name, source, target = sys.argv[1:]
    torch.set_num_threads(2)
    with torch.no_grad():
        torch.save(globals()[name](torch.load(source, weights_only=True)), target)


if __name__ == "__main__":
    main()
