"""The card of a model, `README.md` beside its weights: what its config and its run say, and nothing that they do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from svfap.model.config import ModelConfig

NO_RESULTS = "No evaluation is beside the model: `svfap evaluate` writes one, and `svfap models FOLDER` shows it here."
CARD = """---
{{ card_data }}
---

# {{ config.preset }} for {{ config.task }}

A model of [SVFAP](https://arxiv.org/abs/2401.00416), the self-supervised video facial affect perceiver.
`svfap.load_model(folder)` loads it. This card was written from what the model's files say; what they do not say is not in it.
{% for line in lines %}
- {{ line }}
{%- endfor %}

## Videos like those of the training

| | |
| --- | --- |
{%- for name, value in contract.items() %}
| {{ name }} | {{ value }} |
{%- endfor %}

## Training

{% for name, value in recipe.items() -%}
- {{ name }}: {{ value }}
{% else -%}
Not known.
{% endfor %}
## Results

{{ results or none_known }}

## Limits

- It was tested on nothing but what stands under Results; scores hold for people and videos like those.
- Faces that are cut out, sampled or lit in another way than in training give other outputs.
- Outputs are not a person's feelings, and not for decisions about a person.
"""
# Entries of `ModelConfig.provenance`, as they are called in the card.
RECIPE = {
    **{
        "num_videos": "training videos",
        "fraction": "fraction of the videos",
        "epochs": "epochs",
        "epoch": "weights of epoch",
    },
    **{"seed": "seed", "guessed": "settings that the checkpoint did not store"},
}


def write_card(
    config: ModelConfig, data: ModelCardData, recipe: Mapping[str, object] | None = None, results: str = ""
) -> ModelCard:
    """The card. The program's licence is not that of weights: none is named unless it is known.

    data: what the Hub reads, changed here. recipe: settings of the training by name, in addition to those in the config.
    results: Markdown.
    """
    known = config.provenance
    if licence := known.get("licence"):
        data.license = "other"
    names = "; ".join(f"{head}: " * bool(head) + ", ".join(shape.label_names) for head, shape in config.outputs.items())
    facts = {
        "Outputs": names,
        "Trained on": known.get("dataset") or known.get("finetuned_on") or known.get("pretrained_on"),
        "Licence of that dataset, which may bind these weights": licence,
        "Encoder initialised from, whose terms hold as well": known.get("init"),
        "Imported from, whose terms hold": known.get("imported_from"),
        "Calibrated by the temperature": by_head(known.get("temperature")),
        "The temperature was fitted on": by_head(known.get("calibrated_on")),
    }
    lines = [f"{what}: {_line(value)}" for what, value in facts.items() if value]
    if not licence:
        lines.append("Licence of these weights: not stated. See to the terms of the data before passing them on.")
    contract = {"clip": f"{config.num_frames} frames of {config.img_size} × {config.img_size} pixels"}
    if config.num_frames > 1:
        contract["frames of the clip"] = (
            f"one in {config.sampling_stride} frames of the video" if config.sampling_stride > 1 else "successive"
        )
    recorded = {RECIPE[key]: known[key] for key in RECIPE if known.get(key) not in (None, [])}
    given = {name: _line(value) for name, value in {**recorded, **(recipe or {})}.items()}
    text: dict[str, Any] = dict(
        lines=lines, contract={**contract, **config.contract}, recipe=given, results=results, none_known=NO_RESULTS
    )
    return ModelCard.from_template(card_data=data, template_str=CARD, config=config, **text)


def _line(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return " ".join(text.split())


def by_head(value: object) -> object:
    """A value, or those of several heads after their names."""
    if isinstance(value, Mapping):
        return "; ".join(f"{head}: {by_head(each)}" for head, each in value.items())
    return f"{value:.3g}" if isinstance(value, float) else value
