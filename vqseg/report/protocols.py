"""Protocols: the same label maps scored under every protocol, how ranks and gaps move, which conclusions change.

Nothing is trained for it: a study's runs are scored again. Every protocol is tested by itself, Holm within it, because
that is what a paper with this protocol alone would have concluded.
"""

from collections.abc import Mapping

import pandas as pd

from vqseg.errors import InputError
from vqseg.protocols import PROTOCOLS
from vqseg.records import index
from vqseg.report import ablation, contrasts, protocol_figures, protocol_tables
from vqseg.report.agreement import odd
from vqseg.report.content import Picture, Report, Section, size_words
from vqseg.report.measures import MEASURES, completed, measure_name
from vqseg.report.rivals import last_of
from vqseg.report.selection import COLUMNS, PROTOCOL_ORDER, Selection, headline

DISTANCE = "hd95_voxel"
FLIPS, TOLD = "verdict flips", "significance"
KEYS = ["identity", "arm", "draw", "seed", "family"]


def build(selection: Selection) -> Report:
    """Build the report of one study under every protocol that it was scored under.

    Raises:
        InputError: rows of one protocol do not agree.
    """
    scores = scored(selection)
    effects, gaps, ranks = by_protocol(selection, scores)
    moved = changes(effects, ranks, measure_name(selection.options.metric))
    return Report(
        title=f"{selection.study['name']}: one study under every protocol",
        question=selection.study.get("question", ""),
        banners=ablation.banners(selection),
        summary=answers(selection, effects, gaps, ranks, moved),
        sections=[
            _means(selection, scores, gaps),
            _ranks(selection, effects, ranks, moved),
            Section("Protocols", not_scored(selection, scores), [protocol_tables.rules(selection, scores)]),
            ablation.scores_section(selection),
        ],
    )


def scored(selection: Selection) -> dict[str, pd.DataFrame]:
    """Return the foreground rows of the selection's part and runs, protocol by protocol.

    Raises:
        InputError: the rows of one protocol were made by different code, or a scoring was cut short.
    """
    used = selection.used
    rows = index.rows(selection.store, list(used["identity"].unique()), COLUMNS)
    rows = completed(rows[(rows["class_index"] > 0) & (rows["part"] == selection.part)])
    joined = rows.merge(used[KEYS].drop_duplicates(["identity", "arm"]), on="identity", how="inner")
    found = {str(name): own for name, own in joined.groupby("protocol", sort=False)}
    for name, own in found.items():
        _require_alike(selection, name, own)
    order = [*PROTOCOL_ORDER, *sorted(set(found) - set(PROTOCOL_ORDER))]
    return {name: found[name] for name in order if name in found}


def _require_alike(selection: Selection, protocol: str, rows: pd.DataFrame) -> None:
    study, part = selection.study["name"], selection.part
    again = f"vqseg study evaluate {study} --part {part} --protocol {protocol}"
    for run in selection.used.to_dict("records"):
        if last_of(run, part, protocol).get("unfinished"):
            cut = f"the last scoring of {run['name']!r} under {protocol} was cut short"
            raise InputError(f"study {study!r}: {cut}; finish it: {again}")
    names = dict(zip(selection.used["identity"], selection.used["name"]))
    codes = rows[["identity", "scoring"]].drop_duplicates().groupby("identity")["scoring"].agg(" ".join)
    different = odd(f"scoring code of {protocol}", {names[identity]: code for identity, code in codes.items()})
    if different and not selection.options.allow_mixed:
        raise InputError(f"study {study!r}: {different[0]}; score again: {again}, or pass --allow-mixed")


def by_protocol(
    selection: Selection, scores: Mapping[str, pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Test every protocol by itself.

    Returns:
        Effects against the reference (`contrasts.assess`'s columns with ``arm`` and ``protocol``), the best arm minus
        the second (the same), and the ranks: one row per arm, one column per protocol, 1 is best.
    """
    metric = measure_name(selection.options.metric)
    higher = bool(MEASURES[metric].higher_is_better)
    effects, gaps, ranks = [], [], {}
    for protocol, rows in scores.items():
        own = headline(rows)
        means = own.groupby(["arm", "seed", "draw"])[metric].mean().groupby("arm").mean().dropna()
        if means.empty:
            continue
        ranks[protocol] = means.rank(ascending=not higher, method="min")
        order = means.sort_values(ascending=not higher).index
        wanted = [contrasts.minus(arm, selection.reference, name=arm) for arm in selection.arms]
        table = contrasts.assess(own, [each for each in wanted if each.name != selection.reference], metric)
        effects.append(table.assign(arm=table["contrast"], protocol=protocol))
        if len(order) > 1:
            pair = contrasts.minus(str(order[0]), str(order[1]))
            gaps.append(contrasts.assess(own, [pair], metric).assign(protocol=protocol))
    ranked = pd.DataFrame(ranks)
    ranked = ranked.reindex([arm for arm in selection.arms if arm in ranked.index])
    empty = pd.DataFrame(columns=["arm", "protocol", "contrast", "estimate", "p_holm", "seeds"])
    tables = [pd.concat(each, ignore_index=True) if each else empty for each in (effects, gaps)]
    return tables[0], tables[1], ranked


def changes(effects: pd.DataFrame, ranks: pd.DataFrame, metric: str) -> dict[str, str]:
    """Say for every arm what changes between protocols; empty if nothing does.

    `FLIPS`: it is told to be better under one and worse under another; `TOLD`: it can be told from the reference under
    some only; else the sign of its estimate, and its rank.
    """
    found, measure = {}, MEASURES[metric]
    for arm, own in ranks.iterrows():
        lines = effects[effects["arm"] == arm].to_dict("records")
        ways = {contrasts.direction(line, measure) for line in lines}
        words = [FLIPS] if {1, -1} <= ways else [TOLD] if len(ways) > 1 else []
        if len({line["estimate"] > 0 for line in lines}) > 1:
            words.append("sign")
        places = own.dropna()
        if places.nunique() > 1:
            words.append(f"rank {places.min():.0f} to {places.max():.0f}")
        found[str(arm)] = ", ".join(words)
    return found


def answers(
    selection: Selection, effects: pd.DataFrame, gaps: pd.DataFrame, ranks: pd.DataFrame, moved: Mapping[str, str]
) -> list[str]:
    """Say whether conclusions depend on the protocol, by how much effects and the lead move."""
    names, where = list(ranks.columns), contrasts.where(selection)
    if len(names) < 2:
        only = f"Only protocol {names[0]} is scored" if names else "No protocol is scored"
        return [f"{only} on {where}: nothing can be held against it. {_command(selection)} scores the others."]
    changed = [arm for arm, words in moved.items() if words.startswith((FLIPS, TOLD))]
    sentences = [_widest(selection, effects, len(names))] if len(effects) else []
    leaders = {name: str(ranks[name].idxmin()) for name in names}
    if len(set(leaders.values())) == 1:
        sentences.append(f"The best arm is {leaders[names[0]]} under all {len(names)} protocols.")
    else:
        listed = "; ".join(f"{name}: {arm}" for name, arm in leaders.items())
        sentences.append(f"The best arm depends on the protocol: {listed}.")
    swapped, pairs = _swaps(ranks)
    sentences.append(f"{swapped} of {pairs} pairs of arms swap places between some two protocols.")
    conclusions = f"Conclusions against {selection.reference} change for {len(changed)} of {len(ranks)} arms"
    sentences.append(f"{conclusions}{f': {_listed(changed, moved)}' if changed else ''}.")
    return sentences


def _widest(selection: Selection, effects: pd.DataFrame, count: int) -> str:
    """Name the arm whose effect moves most, with its least and its greatest."""
    spread = effects.groupby("arm")["estimate"].agg(lambda values: values.max() - values.min())
    arm = str(spread.idxmax())
    own = effects[effects["arm"] == arm].sort_values("estimate").to_dict("records")
    low, high = own[0], own[-1]
    return (
        f"On {contrasts.where(selection)} the protocol moves the effect of {arm} against {selection.reference} most: "
        f"from {contrasts.number(low, selection)} under {low['protocol']} ({size_words(low)}) to "
        f"{contrasts.number(high, selection)} under {high['protocol']} ({size_words(high)}), of {count} protocols."
    )


def _swaps(ranks: pd.DataFrame) -> tuple[int, int]:
    """Count the pairs of arms whose order is not the same under all protocols, and all pairs."""
    table = ranks.dropna()
    arms_, swapped, pairs = list(table.index), 0, 0
    for place, one in enumerate(arms_):
        for other in arms_[place + 1 :]:
            gaps = table.loc[one] - table.loc[other]
            pairs += 1
            swapped += bool((gaps > 0).any() and (gaps < 0).any())
    return swapped, pairs


def _listed(names: list[str], moved: Mapping[str, str], most: int = 6) -> str:
    shown = "; ".join(f"{arm} ({moved[arm]})" for arm in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _means(selection: Selection, scores: Mapping[str, pd.DataFrame], gaps: pd.DataFrame) -> Section:
    """Return one table per metric, arms x protocols, and the lead of the best arm."""
    asked = dict.fromkeys([measure_name(selection.options.metric), DISTANCE])
    tables = [protocol_tables.means(selection, scores, key) for key in asked]
    return Section(
        "Arms under every protocol", [], [*tables, *([protocol_tables.leads(selection, gaps)] if len(gaps) else [])]
    )


def _ranks(selection: Selection, effects: pd.DataFrame, ranks: pd.DataFrame, moved: Mapping[str, str]) -> Section:
    """Return ranks and conclusions, and both as figures."""
    metric, end, pictures = measure_name(selection.options.metric), protocol_tables.end_of(selection), []
    if len(ranks.columns) > 1:
        families = {label: str(arm.get("family", label)) for label, arm in selection.of_arm.items()}
        unit = MEASURES[metric].short(selection.protocol)
        caption = (
            f"Rank of every arm by mean {unit} under every protocol, 1 is best; lines that cross swap places. {end}"
        )
        drawn = ranks.reset_index(names="arm")
        pictures.append(Picture("rank-lines", caption, protocol_figures.draw_ranks, (drawn, families)))
    if len(effects):
        shown = protocol_figures.shown(effects)
        left = f"; the {shown['arm'].nunique()} that move most" if len(shown) < len(effects) else ""
        caption = (
            f"Every arm minus {selection.reference} under every protocol{left}: 95 % intervals, not corrected; filled "
            f"where Holm's p within the protocol is below .05 with at least 3 seeds. {end}"
        )
        inputs = (shown, metric, selection.protocol)
        pictures.append(Picture("protocol-effects", caption, protocol_figures.draw_effects, inputs))
    tables = [protocol_tables.ranked(selection, ranks, moved), protocol_tables.conclusions(selection, effects)]
    return Section("Ranks and conclusions", [], tables, pictures)


def not_scored(selection: Selection, scores: Mapping[str, pd.DataFrame]) -> list[str]:
    """Say of every protocol without rows why it does not apply, or how to score it."""
    reasons: dict[str, str] = {}
    for listed in selection.used.get("evaluations", []):
        for entry in listed if isinstance(listed, list) else []:
            if entry.get("part") == selection.part:
                reasons |= entry.get("not_applicable") or {}
    lines = []
    for name in PROTOCOLS:
        if name in scores:
            continue
        why = f"not applicable: {reasons[name]}" if name in reasons else f"not scored; {_command(selection)} does"
        lines.append(f"{name}: {why}.")
    short = {name: own["identity"].nunique() for name, own in scores.items()}
    runs = selection.used["identity"].nunique()
    return [*lines, *(f"{name} is scored for {n} of {runs} runs only." for name, n in short.items() if n < runs)]


def _command(selection: Selection) -> str:
    name = selection.study.get("of") or selection.study["name"]
    return f"'vqseg study evaluate {name} --part {selection.part} --protocol all'"
