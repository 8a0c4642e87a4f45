"""What runs logged while they were trained: validation curves, reach, codebook health; sections of any report."""

import pandas as pd

from vqseg.report import codebook, curves, reach, style
from vqseg.report.content import Picture, Section, conditions
from vqseg.report.selection import Selection


def training_sections(selection: Selection) -> list[Section]:
    """Return training curves, reach and codebook health, as far as the runs logged them."""
    return [
        section
        for section in (_curves(selection), reach_section(selection), _codebooks(selection))
        if section.pictures or section.paragraphs
    ]


def reach_section(selection: Selection) -> Section:
    """Return the reach figure with its caption."""
    table = reach.compute(selection.cells)
    if table.empty:
        return Section("Reach", ["Reach was not logged by any finished run."])
    mean = reach.reach(table)
    caption = (
        f"Dice lost and pixels that change class on validation when the codes are perturbed, at the last validation. "
        f"Reach (uniform replacement at rate 1): {mean:.3f} Dice. Dots: seeds. {conditions(selection, 'validation')}"
    )
    return Section("Reach", [], [], [Picture("reach", caption, reach.draw, (table,))])


def _curves(selection: Selection) -> Section:
    table = curves.compute(selection.curves([curves.NAME]))
    if table.empty:
        return Section("Training", ["No validation curve was logged."])
    words = "Validation Dice of the teacher during training; band: range over seeds."
    caption = f"{words} {conditions(selection, 'validation')}"
    return Section("Training", [], [], [Picture("curves", caption, curves.draw, (table,))])


def _codebooks(selection: Selection) -> Section:
    logged = selection.curves(codebook.NAMES)[["arm", "seed", "step", "name", "value"]]
    ranked = codebook.compute(selection.usage, selection.part)
    health = codebook.summarize(ranked)
    lines, bars_of, health_of = (dict(list(table.groupby("arm", sort=False))) for table in (logged, ranked, health))
    end, pictures = conditions(selection, "training"), []
    for arm in selection.study["arms"]:
        label = arm["label"]
        own, bars = lines.get(label, logged[:0]), bars_of.get(label, ranked[:0])
        if own.empty and bars.empty:
            continue
        words = _codebook_words(label, health_of.get(label, health[:0]), bars) + end
        inputs = (own, bars[["seed", "rank", "tokens"]], str(arm.get("family", label)))
        pictures.append(Picture(f"codebook-{style.slug(label)}", words, codebook.draw, inputs))
    return Section("Codebook", [] if pictures else ["No codebook was logged."], [], pictures)


def _codebook_words(label: str, own: pd.DataFrame, bars: pd.DataFrame) -> str:
    words = f"Codebook of {label}: in training over a window of tokens, and the teacher's sorted usage. "
    if len(own):
        first = own.iloc[0]
        words += (
            f"On {bars['part'].iloc[0]}, {first['tokens']:,.0f} tokens and {first['codes']:,} codes: "
            f"{100 * own['utilization'].mean():.1f} % used, ceiling {100 * first['ceiling']:.1f} %, "
            f"perplexity {own['perplexity'].mean():,.0f}. "
        )
        if first["tokens"] < 10 * first["codes"]:
            words += "Fewer than 10 tokens per code: no claim about utilization. "
    return words
