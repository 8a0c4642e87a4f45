"""Who a run is: its settings that differ from their first defaults, its data, and the code that it uses.

The code enters as a hash of syntax trees with docstrings and annotations stripped, over the modules of the run and
the files of the chosen parts. So a docstring, a comment, a new option at its default in `vqseg.config` or a new
variant's file re-runs nothing; a changed formula re-runs exactly the runs that use it.
The defaults of a part's options are stripped too: their resolved values are leaves of the identity.
"""

import ast
import importlib.util
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from vqseg.files import digest

# What every run computes with, whatever parts it names.
CORE = (
    "vqseg.alignment",
    "vqseg.augment",
    "vqseg.build",
    "vqseg.codebook",
    "vqseg.controller",
    "vqseg.convolution",
    "vqseg.dataset",
    "vqseg.losses",
    "vqseg.meter",
    "vqseg.network",
    "vqseg.optimizer",
    "vqseg.replacement",
    "vqseg.step",
    "vqseg.store",
    "vqseg.streams",
    "vqseg.teacher",
    "vqseg.train",
    "vqseg.upload",
    "vqseg.validation",
    "vqseg.windows",
)
# What trains the local prior.
PRETRAINING = (
    "vqseg.augment",
    "vqseg.dataset",
    "vqseg.meter",
    "vqseg.optimizer",
    "vqseg.pretrain",
    "vqseg.priors.local",
    "vqseg.store",
    "vqseg.streams",
    "vqseg.train",
)
SCORING = (
    "vqseg.evaluate",
    "vqseg.inference",
    "vqseg.lesions",
    "vqseg.metrics",
    "vqseg.protocols",
    "vqseg.scoring",
)
# What stands between weights and a label map, beside the parts that the config names.
INFERENCE = ("vqseg.codebook", "vqseg.convolution", "vqseg.network", "vqseg.store", "vqseg.windows")

# Code that was rewritten without changing what it computes, with a test that says so: new hash -> the hash it keeps.
EQUIVALENT: dict[str, str] = {}


@cache
def module_hash(module: str) -> str:
    """Return the hash of a module's (dotted name, or path of a .py file) normalized syntax tree."""
    if module.endswith(".py"):
        return source_hash(Path(module).read_text(encoding="utf-8"))
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    return source_hash(Path(spec.origin).read_text(encoding="utf-8"))


def source_hash(source: str | bytes, *, defaults: bool = False) -> str:
    """Return the hash of a source text: docstrings and annotations do not count.

    Defaults of constructor options count only with ``defaults``: for code that does not promise to declare as
    ``WAS`` what a default was. So do names that are annotated without a value, which a dataclass makes its fields of.
    """
    tree = _Normalize(defaults).visit(ast.parse(source))
    found = digest(ast.dump(tree, include_attributes=False))
    return EQUIVALENT.get(found, found)


def code_hashes(parts: Iterable[str]) -> dict[str, str]:
    """Return module -> hash for the core and the modules of the chosen parts."""
    return {module: module_hash(module) for module in sorted({*CORE, *parts})}


def scoring_hash() -> str:
    """Return the hash of everything between a label map and a row."""
    return digest({module: module_hash(module) for module in SCORING})


def identity(leaves: Mapping[str, Any], data: str, split: str, code: Mapping[str, str]) -> str:
    """Return a run's identity: 16 hex digits."""
    return digest({"leaves": dict(leaves), "data": data, "split": split, "code": dict(code)})


class _Normalize(ast.NodeTransformer):
    def __init__(self, defaults: bool) -> None:
        self.defaults = defaults

    def _body(self, node: Any) -> Any:
        self.generic_visit(node)
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:] or [ast.Pass()]
        return node

    visit_Module = visit_ClassDef = _body

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
            argument.annotation = None
        if node.name == "__init__" and not self.defaults:
            node.args.kw_defaults = [None for _ in node.args.kw_defaults]
        body: ast.AST = self._body(node)
        return body

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        self.generic_visit(node)
        if node.value is None:
            return ast.AnnAssign(node.target, ast.Constant(None), None, node.simple) if self.defaults else None
        return ast.copy_location(ast.Assign([node.target], node.value), node)
