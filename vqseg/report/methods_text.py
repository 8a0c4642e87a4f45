"""A methods paragraph from what runs were configured to do, with references: nothing in it is written by hand.

Where the runs of a group differ in a setting, all its values are told; what no run has is left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from vqseg.errors import InputError
from vqseg.records.run import RunFolder
from vqseg.report import references
from vqseg.report.selection import Selection

PERTURBATIONS = {
    "none": ("no perturbation", ()),
    "qpm": ("QPM, which exchanges codes for near ones more often than for far ones", ("yang2025vqseg",)),
    "dropout": ("dropout", ("srivastava2014dropout",)),
    "channel-dropout": ("dropout of channels", ("yang2023unimatch",)),
    "shuffle": ("shuffling of codes in space", ()),
    "uniform": ("exchange of codes for any other with equal probability", ()),
    "mask-and-replace": ("mask and replace", ("gu2022vqdiffusion",)),
    "cluster-qpm": ("QPM within clusters of codes", ()),
}
PRIORS = {
    "dinov2": ("DINOv2", ("oquab2024dinov2",)),
    "dinov2-registers": ("DINOv2 with registers", ("oquab2024dinov2",)),
    "clip": ("CLIP", ("radford2021clip",)),
    "biomedclip": ("BiomedCLIP", ("zhang2023biomedclip",)),
    "mae": ("MAE", ("he2022mae",)),
    "rad-dino": ("Rad-DINO", ("perezgarcia2025raddino",)),
    "local": ("a masked autoencoder that was trained on the same training images alone", ("he2022mae",)),
}
ENCODERS = {"unet": ("a U-Net", ("ronneberger2015unet",)), "vit": ("a vision transformer", ("oquab2024dinov2",))}
DECODERS = {"unet": ("a U-Net's decoder", ("ronneberger2015unet",)), "dpt": ("a DPT decoder", ("ranftl2021dpt",))}
OPTIMIZERS = {"adamw": ("AdamW", ("loshchilov2019adamw",)), "sgd": ("SGD with momentum", ())}
DATA = {"acdc": ("bernard2018acdc", "luo2020ssl4mis"), "isic": ("codella2019isic",)}
"""What a data set's name begins with -> what it refers to."""


@dataclass
class Text:
    """Paragraphs, and the keys of what they refer to."""

    paragraphs: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def cite(self, *keys: str) -> str:
        """Return `` (Gu et al. 2022)``, and keep the keys."""
        self.keys += [key for key in keys if key not in self.keys]
        known = references.read()
        return f" ({'; '.join(known[key].short for key in keys)})" if keys else ""

    def named(self, names: Iterable[Any], known: Mapping[str, tuple[str, tuple[str, ...]]]) -> str:
        """Return parts by name in words, with their references; a part of the user's own by its name."""
        words = []
        for name in dict.fromkeys(str(name) for name in names):
            said, keys = known.get(name, (name.rpartition("/")[2], ()))
            words.append(f"{said}{self.cite(*keys)}")
        return _listed(words, "and")


def write(selections: list[Selection]) -> Text:
    """Return the paragraphs on the runs of some studies: one per data set and preset, then scoring and statistics."""
    text = Text()
    groups: dict[tuple[str, ...], list[Selection]] = {}
    for own in selections:
        study = own.study
        key = (study["data"]["name"], study["split"]["name"], str(study.get("preset")), str(study.get("supervised")))
        groups.setdefault(key, []).append(own)
    for (data, split, preset, _), group in groups.items():
        configs = [config for own in group for config in _configs(own)]
        if configs:
            named = _listed((str(own.study["name"]) for own in group), "and")
            words = [_data(text, group, data, split), *_training(text, configs, preset), f"Studies: {named}."]
            text.paragraphs.append(" ".join(words))
    if text.paragraphs:
        text.paragraphs += [_scoring(text, selections), _statistics(text, selections)]
    return text


def _configs(selection: Selection) -> list[dict[str, Any]]:
    """Return the settings of one run of every arm."""
    found = []
    for identity in selection.used.drop_duplicates("arm")["identity"]:
        try:
            found.append(RunFolder(selection.store, str(identity)).config())
        except InputError:  # a run without readable settings is told by its table
            continue
    return found


def _data(text: Text, group: Sequence[Selection], data: str, split: str) -> str:
    used = pd.concat([own.used for own in group], ignore_index=True)
    counts = []
    for part in ("labelled", "unlabelled", "val", "test", "devtest"):
        column = f"split.parts.{part}.patients"
        known = sorted({int(value) for value in used[column].dropna()}) if column in used else []
        if known:
            counts.append(f"{' or '.join(map(str, known))} {'validation' if part == 'val' else part}")
    keys = next((keys for name, keys in DATA.items() if data.casefold().startswith(name)), ())
    kind = "synthetic images" if group[0].phantom else "data set"
    return f"The {kind} {data}{text.cite(*keys)} was split by patient ({split}: {', '.join(counts)} patients)."


def _training(text: Text, configs: list[dict[str, Any]], preset: str) -> list[str]:
    def of(key: str) -> list[Any]:
        return _values(configs, key)

    def numbers(key: str) -> str:
        return _listed(map(_number, of(key)))

    mapped = "mapped" in of("network.quantizer.name")
    network = (
        f"{text.named(of('network.encoder.name'), ENCODERS)} with {text.named(of('network.decoder.name'), DECODERS)}"
    )
    codes = f"the nearest of {numbers('network.quantizer.num_codes')} codes{text.cite('oord2017vqvae')}"
    codes += f", a frozen random table seen through one trained linear map{text.cite('zhu2024simvq')}" if mapped else ""
    optimizer = f"{text.named(of('optimizer.name'), OPTIMIZERS)} at learning rate {numbers('optimizer.lr')}"
    images = f"{numbers('train.labelled_batch')} labelled and {numbers('train.unlabelled_batch')} unlabelled images"
    sentences = [
        f"At preset {preset} the network is {network}; its deepest features are replaced by {codes}.",
        f"It was trained for {numbers('train.steps')} steps with {optimizer} on {images} a step of "
        f"{numbers('data.size_px')} pixels.",
    ]
    sentences += _consistency(text, configs) if "vqseg" in of("method.name") else []
    sentences.append(f"Perturbations of the codes: {text.named(of('perturbation.name'), PERTURBATIONS)}.")
    sentences += [f"Rates: {numbers('perturbation.rate')}."] if of("perturbation.rate") else []
    if priors := [name for name in of("prior.name") if name != "none"]:
        sentences.append(
            "Where a prior is used, the codes' features are aligned patch by patch with those of "
            f"{text.named(priors, PRIORS)}, which is frozen, by InfoNCE{text.cite('oord2018cpc')}."
        )
    return sentences


def _consistency(text: Text, configs: list[dict[str, Any]]) -> list[str]:
    """Say what is learned from unlabelled images."""
    decay = _listed(map(_number, _values(configs, "train.teacher_decay")))
    mixed = any(float(value) > 0 for value in _values(configs, "augment.cutmix_probability"))
    strong = f" and CutMix{text.cite('yun2019cutmix')}" if mixed else ""
    sentences = [
        f"On unlabelled images the student learns what a moving average of itself with decay {decay}"
        f"{text.cite('tarvainen2017meanteacher')} predicts on weak views: on strong views with changed intensities"
        f"{strong}, as UniMatch does{text.cite('yang2023unimatch')}, and on perturbed codes"
        f"{text.cite('yang2025vqseg')}."
    ]
    if True in _values(configs, "method.dual_branch"):
        sentences.append(f"A second decoder reconstructs the image from the codes{text.cite('yang2025vqseg')}.")
    return sentences


def _scoring(text: Text, selections: list[Selection]) -> str:
    parts = _listed(dict.fromkeys(f"{own.part} by protocol {own.protocol}" for own in selections))
    return (
        f"Scored was the last teacher, on {parts}: Dice{text.cite('dice1945')}, Jaccard, the 95th percentile of the "
        f"Hausdorff distance{text.cite('huttenlocher1993hausdorff')} and the average surface distance, both as medpy "
        f"defines them{text.cite('maier2019medpy')}."
    )


def _statistics(text: Text, selections: list[Selection]) -> str:
    words = (
        "The unit of every test is the patient. A difference between arms is a mean over seeds crossed with patients, "
        f"both random; its t interval has Satterthwaite's degrees of freedom{text.cite('satterthwaite1946')}, p values "
        f"are corrected by Holm's method{text.cite('holm1979')} within a table, and the absence of an effect is tested "
        f"by two one-sided tests{text.cite('schuirmann1987tost')}."
    )
    if any(own.study.get("search") for own in selections):
        words += f" Searches were run with Optuna{text.cite('akiba2019optuna')}."
    return words


def _values(configs: list[dict[str, Any]], key: str) -> list[Any]:
    """Return the values of a dotted key, in order of appearance, each once; a part may be written as its name alone."""
    found: list[Any] = []
    for config in configs:
        value: Any = config
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else value if name == "name" else None
        if value is not None and not isinstance(value, Mapping) and value not in found:
            found.append(value)
    return found


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _listed(words: Iterable[str], last: str = "or") -> str:
    known = list(words)
    return known[0] if len(known) == 1 else f"{', '.join(known[:-1])} {last} {known[-1]}" if known else "?"
