"""Runs Hugging Face's SAM; started as a script in a process of its own.

    PYTHONPATH=PACKAGES python hf_sam.py forward|names OUTPUT

forward: a small SAM with random weights, saved in OUTPUT/model.safetensors as `save_pretrained`
does, with what it answers in OUTPUT/answers.pt.
names: names and shapes of SAM ViT-B, L and H, in OUTPUT/names.json.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig
from transformers import SamVisionConfig as Vision

# Width, depth, heads, global blocks.
SIZES = {
    "vit_b": (768, 12, 12, [2, 5, 8, 11]),
    "vit_l": (1024, 24, 16, [5, 11, 17, 23]),
    "vit_h": (1280, 32, 16, [7, 15, 23, 31]),
}


def vision(width: int, depth: int, heads: int, blocks: list[int], **more: int) -> Vision:
    return Vision(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        global_attn_indexes=blocks,
        mlp_dim=4 * width,
        **more,
    )


def tiny_teacher_vit() -> SamModel:
    """The architecture of that name in `configs/`."""
    decoder = {"mlp_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SamConfig(
        vision_config=vision(48, 3, 4, [2], output_channels=32, num_pos_feats=16),
        prompt_encoder_config=SamPromptEncoderConfig(hidden_size=32),
        mask_decoder_config=SamMaskDecoderConfig(hidden_size=32, **decoder),
    )
    model = SamModel(config).eval()
    for name, value in model.state_dict().items():
        spread = 0.1 if value.ndim > 1 else 0.3
        value.copy_(torch.randn_like(value) * spread + ("norm" in name and "weight" in name))
    return model


@torch.no_grad()
def forward(output: Path) -> None:
    torch.manual_seed(0)
    model = tiny_teacher_vit()
    model.save_pretrained(output)
    images = torch.randn(1, 3, 1024, 1024)
    points, labels = torch.tensor([[300.0, 400.0], [100.0, 50.0]]), torch.tensor([1, 0])
    box = torch.tensor([100.0, 120.0, 600.0, 700.0])
    embedding = model.get_image_embeddings(images)
    by_points = model(
        image_embeddings=embedding,
        input_points=points[None, None],
        input_labels=labels[None, None],
        multimask_output=True,
    )
    by_box = model(image_embeddings=embedding, input_boxes=box[None, None], multimask_output=False)
    answers = {"images": images, "points": points, "labels": labels, "box": box}
    answers |= {"embedding": embedding}
    answers |= {"points_logits": by_points.pred_masks[0], "points_iou": by_points.iou_scores[0]}
    answers |= {"box_logits": by_box.pred_masks[0], "box_iou": by_box.iou_scores[0]}
    torch.save(answers, output / "answers.pt")


def names(output: Path) -> None:
    found = {}
    for size, settings in SIZES.items():
        with torch.device("meta"):
            model = SamModel(SamConfig(vision_config=vision(*settings)))
        found[size] = {key: list(value.shape) for key, value in model.state_dict().items()}
    (output / "names.json").write_text(json.dumps(found))


if __name__ == "__main__":
    {"forward": forward, "names": names}[sys.argv[1]](Path(sys.argv[2]))
