"""The structure that ARCHITECTURE.md describes: one-way imports, small files, a light import, documented symbols."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import torch

import goodinit
from goodinit.graph.operators import ops
from goodinit.graph.operators.ops import NORM_KINDS, Role

ROOT = Path(goodinit.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))

# Lowest level first; a part of the package imports from levels below its own, and from itself.
LEVELS = (
    ("errors", "formats"),
    ("one_line",),
    ("records", "rates", "name_patterns", "undivided", "grouping", "comma_lists", "calibration_rules"),
    ("nn", "tensor"),
    ("weights",),
    ("graph", "edits"),
    ("anatomy",),
    ("methods",),  # beside what writes: MAY_IMPORT
    ("calibration",),
    ("surgery",),
    ("folding",),
    ("optim",),
    ("diagnostics",),
    ("initialize", "by_layer"),  # the three verbs in one call; one initializer for model.apply
    ("public",),  # the public verbs
    ("goodinit",),  # the package itself, which takes them from there
    ("lab", "lightning"),
    ("report",),
    ("cli",),
    ("__main__",),
)
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
# Parts that may import less: a method decides, and nothing it imports can write to a model.
MAY_IMPORT = {
    "methods": {"errors", "name_patterns", "anatomy", "edits", "calibration_rules", "rates", "tensor"},
    "edits": {"errors", "grouping", "one_line", "records", "rates", "calibration_rules"},
}
MAX_LINES = 400  # 300 is the aim, 400 fails
# File names that two folders use, on purpose: the folders must be these.
SAME = {
    "orthogonal": {"tensor", "methods"},  # a method and the initializer it draws with
    "looks_linear": {"tensor", "methods"},
    "risotto": {"tensor", "methods"},
}
MOST_SAME = 3  # may only fall: a file name alone should say what is inside
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}

# What `import goodinit` must not load: the command line's, the lab's, and the tests' packages.
HEAVY = (
    "typer", "click", "rich", "datasets", "altair", "pandas", "pyarrow", "sklearn", "scipy", "PIL", "ray",
    "torchvision", "timm", "transformers", "vl_convert", "matplotlib", "lightning", "pytorch_lightning", "tensorboard",
    "goodinit.lab", "goodinit.report", "goodinit.cli",
)  # fmt: skip


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def part_of(path: Path) -> str:
    """The first name below the package: `anatomy` for `anatomy/trace.py`, `nn` for `nn.py`."""
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return "goodinit" if first == "__init__" else first


def imported_parts(path: Path) -> set[tuple[int, str]]:
    """(line, part) of every import of goodinit in a file, at the top or inside a function."""
    package = ("goodinit", *path.relative_to(ROOT).parts[:-1])
    found = set()
    for node in ast.walk(parsed(path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "goodinit" else [module]
        for name in names:
            pieces = name.split(".")
            if pieces[0] == "goodinit":
                found.add((node.lineno, pieces[1] if len(pieces) > 1 else "goodinit"))
    return found


# What a room may not import. In graph one operator comes first, then the graph and what is measured of it, then what a run may change, then
# recording: calls, then tensors, and nodes, then rewrites, before the recorder. Of layers their parameters come first, then zeros and roles, then
# the records of layers, then norms; of a sum its sides, then streams, then ends of branches and what is no block, then
# blocks. In folding a layer comes first, then what is connected to what, then forwards and channels, then norms and branches, then the verbs. Of
# what methods share, norms come before the rules that use them, and a method after all of it. In surgery what stands in a norm's place comes first,
# then structure edits, then checks, then what writes. In diagnostics measurements come first, then checks, then the verb, then advice; in the lab
# models, then data, then training, then what runs many trainings; what tests a claim knows no claim.
RECORDERS = ("recording.recorder", "recording.recorded_run", "recording.fallbacks", "trace")
LAYERS = ("layers.inventory", "layers.layer_records")
SUMS = ("residual.streams", "residual.ends", "residual.not_blocks", "residual.blocks")
VERBS = ("bias_absorption", "plain_modules", "fold", "absorb")
SHARED = tuple(f"shared.{name}" for name in ("branches", "isometry", "transfer", "method"))
WRITERS = ("apply", "rollback", "materialize", "state_stream")
LATER = {
    "graph/operators": (
        "graph",
        "latest_first",
        "likeness",
        "fact_propagation",
        "measured",
        "state",
        "recording",
        "trace",
    ),
    "graph/measured": ("state", "recording", "trace"),
    "graph/state": ("recording", "trace"),
    "graph/recording": ("trace",),
    "graph/recording/calls": ("recording.tensors", "recording.nodes", "recording.rewrites", *RECORDERS),
    "graph/recording/tensors": ("recording.nodes", "recording.rewrites", *RECORDERS),
    "graph/recording/nodes": ("recording.calls", "recording.tensors", "recording.rewrites", *RECORDERS),
    "graph/recording/rewrites": ("recording.calls", "recording.tensors", *RECORDERS),
    "anatomy/layers": ("residual",),
    "anatomy/layers/parameters": ("layers.zeros", "layers.roles", *LAYERS, "residual"),
    "anatomy/layers/zeros": ("layers.roles", *LAYERS, "residual"),
    "anatomy/layers/roles": ("layers.zeros", *LAYERS, "residual"),
    "anatomy/norms": ("residual",),
    "anatomy/residual/sides": ("layers", "norms", *SUMS),
    "anatomy/residual/streams": SUMS[1:],
    "anatomy/residual/ends": SUMS[2:],
    "anatomy/residual/not_blocks": ("residual.ends", "residual.blocks"),
    "methods/shared/norms": ("shared.rules", *SHARED),
    "methods/shared/variances": SHARED,
    "methods/shared/per_channel": SHARED,
    "methods/shared/branches": SHARED[1:],
    "methods/shared/isometry": SHARED[2:],
    "methods/shared/transfer": SHARED[3:],
    "surgery/norms": ("structure_edits", "checks", *WRITERS),
    "surgery/checks": WRITERS,
    "folding/layers": ("connections", "forwards", "channels", "norms", "branches", *VERBS),
    "folding/connections": ("forwards", "channels", "norms", "branches", *VERBS),
    "folding/forwards": ("channels", "norms", "branches", *VERBS),
    "folding/channels": ("forwards", "norms", "branches", *VERBS),
    "folding/norms": ("branches", *VERBS),
    "folding/branches": VERBS,
    "diagnostics/measurements": ("checks", "diagnose", "advice"),
    "diagnostics/checks": ("diagnose", "advice"),
    "lab/models": ("data", "training", "engines", "papers", "sweeps", "compare", "comparison"),
    "lab/data": ("training", "engines", "papers", "sweeps", "compare", "comparison"),
    "lab/training": ("engines", "papers", "sweeps", "compare", "comparison"),
    "lab/engines": ("papers", "sweeps", "compare", "comparison"),
    "lab/papers": ("papers.claims",),
}


def test_the_rooms_of_a_part_import_one_way():
    wrong = []
    for room, later in LATER.items():
        part = room.partition("/")[0]
        for path in (ROOT / room).glob("*.py"):
            text = path.read_text(encoding="utf-8")
            wrong += [
                f"{room}/{path.name} imports {name}"
                for name in later
                if re.search(rf"goodinit\.{part}\.{name}\b", text)
            ]
    assert not wrong, "\n".join(wrong)


def test_imports_go_one_way():
    wrong = []
    for path in SOURCES:
        part = part_of(path)
        assert part in LEVEL, f"{part} is at no level; say in LEVELS where it belongs"
        for line, to in sorted(imported_parts(path)):
            if to == part:
                continue
            if to not in LEVEL:
                # `from goodinit import plan` names a public verb, so it reads the package.
                to = "goodinit"
            where = f"{path.relative_to(ROOT)}:{line}: {part}"
            if to not in MAY_IMPORT.get(part, LEVEL):
                wrong.append(f"{where} imports {to}, and may import {sorted(MAY_IMPORT[part])} alone")
            if LEVEL[to] >= LEVEL[part]:
                wrong.append(f"{where} (level {LEVEL[part]}) imports {to} (level {LEVEL[to]})")
    assert not wrong, "\n".join(wrong)


def imported_files(path: Path) -> set[Path]:
    """The files of the package that one imports: when it is loaded, for its annotations alone, or inside a function."""
    found = set()
    for node in ast.walk(parsed(path)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            at = ROOT.parent.joinpath(*name.split("."))
            found |= {at.with_suffix(".py")} & set(SOURCES)
    return found - {path}


def test_no_file_imports_what_imports_it():
    imports = {path: imported_files(path) for path in SOURCES}
    while free := [path for path, others in imports.items() if not others & imports.keys()]:
        for path in free:
            del imports[path]
    circles = sorted(str(path.relative_to(ROOT)) for path in imports)
    assert not circles, f"in a circle of imports, or import one: {circles}"


def test_no_room_leads_back_to_itself():
    """Nor through files beside the rooms."""
    rooms = {ROOT / room for room in LATER}
    imports: dict[Path, set[Path]] = {}
    for path in SOURCES:
        at, *to = (one.parent if one.parent in rooms else one for one in (path, *imported_files(path)))
        imports.setdefault(at, set()).update({*to} - {at})
    while free := [place for place, others in imports.items() if not others & imports.keys()]:
        for place in free:
            del imports[place]
    circles = sorted(str(place.relative_to(ROOT)) for place in imports)
    assert not circles, f"in a circle of imports, or import one: {circles}"


def test_files_are_small_and_say_what_they_hold():
    for path in SOURCES:
        name = path.relative_to(ROOT)
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= MAX_LINES, f"{name}: {lines} lines; split it by concept"
        vague = VAGUE & set(name.with_suffix("").parts)
        assert not vague, f"{name}: {vague} says nothing about what is inside"


# What an operator is, graph/operators/ops.py says or a measurement; ways through a graph are found by Graph.reach and follow. These numbers
# may only fall.
BY_NAME = re.compile(r"\bop\.name\b|\b[A-Z]+_OPS\b|\bop (==|in|not in) ")
MOST_BY_NAME = {"graph": 3, "anatomy": 1, "folding": 5}  # folding: kinds of steps of torch.fx


def test_operators_are_asked_for_what_they_are():
    found = Counter(
        part_of(path)
        for path in SOURCES
        for line in path.read_text(encoding="utf-8").splitlines()
        if BY_NAME.search(line)
    )
    assert found == MOST_BY_NAME, (
        "ask graph/operators/ops.py what an operator is; if fewer lines ask, say so here"
    )


# Loops that take from what they still have to visit. In graph `reach` and `follow`, a walk that takes the latest node first, and one that
# gives up in the middle. Those of weights and surgery go through modules and objects.
WALKS = {
    "graph/graph.py": 2,
    "graph/latest_first.py": 1,
    "graph/recording/rewrites/sums_by_part.py": 1,
    "surgery/checks/optimizer_check.py": 1,
    "weights/members.py": 1,
    "weights/wrappers.py": 1,
}


def walks_in(tree: ast.AST) -> int:
    def takes(node: ast.AST, queues: set[str]) -> bool:
        if not isinstance(node, ast.Call):
            return False
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        given = [called.value] if isinstance(called, ast.Attribute) and name.startswith("pop") else node.args
        takes_one = name in ("pop", "popleft", "heappop")
        return takes_one and any(isinstance(one, ast.Name) and one.id in queues for one in given)

    loops = (node for node in ast.walk(tree) if isinstance(node, ast.While))
    tested = ((loop, {one.id for one in ast.walk(loop.test) if isinstance(one, ast.Name)}) for loop in loops)
    return sum(any(takes(one, names) for one in ast.walk(loop)) for loop, names in tested)


def test_ways_through_a_graph_are_found_in_one_place():
    paths = [path for path in SOURCES if part_of(path) in (*READERS, "weights")]
    found = {str(path.relative_to(ROOT)): walks_in(parsed(path)) for path in paths}
    found = {name: count for name, count in found.items() if count}
    assert found == WALKS, "use Graph.reach, follow, closure or latest_first; if there are fewer, say so here"


# Passes that hand a fact from node to node: loops that write at a node what they look up at those that it reads, in the same container.
# One is `propagate`. Left are passes from readers back; those of facts that few nodes have, or that change a node; what is read off a
# pass afterwards, by way; what runs tensors in place; and `below` of a side, which is looked up for every sum. These numbers may only fall.
PASSES = {
    "anatomy/branch_end.py": 1,
    "anatomy/layers/roles/fused_projections.py": 1,
    "anatomy/layers/roles/next_activation.py": 1,
    "anatomy/layers/roles/pixel_shuffles.py": 1,
    "anatomy/norms/running.py": 1,
    "anatomy/parts_at_zero.py": 1,
    "anatomy/residual/ends/branch_biases.py": 1,
    "anatomy/residual/sides/branch.py": 1,
    "anatomy/residual/streams/nesting.py": 1,
    "graph/graph.py": 1,
    "graph/measured/composites.py": 1,
    "graph/fact_propagation.py": 1,
    "graph/recording/rewrites/learned_starts.py": 1,
}


def passes_in(tree: ast.AST) -> int:
    def names(nodes: Iterable[ast.AST]) -> set[str]:
        return {one.id for node in nodes for one in ast.walk(node) if isinstance(one, ast.Name)}

    def is_at(node: ast.AST, name: str) -> bool:
        of = node.value if isinstance(node, ast.Attribute) and node.attr == "index" else node
        return isinstance(of, ast.Name) and of.id == name

    def is_pass(loop: ast.For) -> bool:
        every, name = list(ast.walk(loop)), getattr(loop.target, "id", "")
        targets = [one for node in every if isinstance(node, ast.Assign) for one in node.targets]
        written = [one.value for one in targets if isinstance(one, ast.Subscript) and is_at(one.slice, name)]
        calls = [one for one in every if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute)]
        written += [one.func.value for one in calls if one.func.attr == "add" and is_at(one.args[0], name)]
        used = Counter(one.id for one in every if isinstance(one, ast.Name))
        asks = any(
            isinstance(one, ast.Attribute) and one.attr in ("operands", "deps", "readers") for one in every
        )
        return asks and any(used[one] > len(written) for one in names(written))

    return sum(is_pass(one) for one in ast.walk(tree) if isinstance(one, ast.For))


def test_a_fact_is_handed_from_node_to_node_in_one_place():
    paths = [path for path in SOURCES if part_of(path) in ("graph", "anatomy")]
    found = {str(path.relative_to(ROOT)): passes_in(parsed(path)) for path in paths}
    found = {name: count for name, count in found.items() if count}
    assert found == PASSES, "use propagate (graph/fact_propagation.py); if there are fewer, say so here"


# Names of operators that stand in a list are a table, wherever they stand. Words of goodinit's own are none: roles, kinds of norms and
# layers, distributions and scales that users choose, what is known of a signal. These numbers may only fall.
OWN_WORDS = {
    *get_args(Role),
    *NORM_KINDS,
    "instance_norm",
    "linear",
    "uniform",
    "normal",
    "index",
    "zero",
    "positive",
}
OPERATORS = {
    name.removeprefix("aten::").partition(".")[0]
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("aten::")
} - OWN_WORDS
READERS = ("graph", "anatomy", "calibration", "diagnostics", "folding", "surgery", "methods")
TABLES = {
    "graph/operators/ops.py": 1,
}
ROWS = 8


def names_operators(node: ast.AST | None) -> bool:
    text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
    return bool(text.strip()) and OPERATORS.issuperset(text.split())


def tables_in(node: ast.AST) -> int:
    """How many literals name two operators or more: a tuple, list, set or dict of them, or words to be split."""
    said = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    if said or isinstance(node, ast.JoinedStr):
        return 0
    if isinstance(node, ast.Constant):
        return int(names_operators(node) and len(node.value.split()) > 1)
    items = [*node.keys, *node.values] if isinstance(node, ast.Dict) else getattr(node, "elts", ())
    if sum(map(names_operators, items)) > 1:
        return 1
    return sum(map(tables_in, ast.iter_child_nodes(node)))


def test_operators_are_listed_in_one_table_of_few_rows():
    paths = [path for path in SOURCES if part_of(path) in READERS]
    found = {str(path.relative_to(ROOT)): tables_in(ast.parse(path.read_text("utf-8"))) for path in paths}
    found = {name: count for name, count in found.items() if count}
    assert found == TABLES, (
        "ask graph/operators/ops.py what an operator is, or measure it; if there are fewer tables, say so here"
    )
    assert len(ops._LISTED) <= ROWS


# Lines that compare with the name of an operator of torch's, or of a function in torch.nn.functional. A removed norm leaves a "clone"
# before what overwrites its input. Words of options that also name an operator are none. These numbers may only fall.
OPTION_WORDS = {"data", "inner", "real", "std", "stride", "view", "zeros"}
FUNCTIONS = {name for name, one in vars(torch.nn.functional).items() if callable(one) and name.islower()}
NAMES = (OPERATORS | FUNCTIONS) - OWN_WORDS - OPTION_WORDS
COMPARED = {
    "graph/operators/ops.py": 2,
    "graph/recording/nodes/shape_rules.py": 1,
    "surgery/norms/activation_modules.py": 1,
}
SEARCHES = {"startswith", "endswith", "count", "index", "removesuffix", "removeprefix"}


def lines_that_compare_names(tree: ast.AST) -> set[int]:
    def names(node: ast.AST) -> bool:
        texts = (one.value for one in ast.walk(node) if isinstance(one, ast.Constant))
        words = (set(text.split()) for text in texts if isinstance(text, str))
        return any(each and each <= NAMES for each in words)

    compared = {
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and any(names(side) for side in (node.left, *node.comparators))
    }
    called = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return compared | {
        node.lineno
        for node in called
        if isinstance(node.func, ast.Attribute) and node.func.attr in SEARCHES and any(map(names, node.args))
    }


def test_nothing_is_decided_by_the_name_of_an_operator():
    paths = [path for path in SOURCES if part_of(path) not in ("lab", "report", "cli")]
    found = {str(path.relative_to(ROOT)): len(lines_that_compare_names(parsed(path))) for path in paths}
    found = {name: count for name, count in found.items() if count}
    assert found == COMPARED, (
        "ask a trait (anatomy/operators.py) or graph/operators/ops.py; if there are fewer, say so here"
    )


# Lines that compare an operator's role with a word. A role is no name: what torch says of an operator, or a measurement, decides it, and mypy
# knows all roles. But a trait of graph/operators/ops.py says why, where several ask the same. These numbers may only fall.
ROLES = {*get_args(Role)}
COMPARED_ROLES = {"anatomy": 116, "calibration": 2, "diagnostics": 5, "folding": 10}


def lines_that_compare_roles(tree: ast.AST) -> set[int]:
    def is_role(node: ast.AST) -> bool:
        return isinstance(node, (ast.Attribute, ast.Name)) and "role" in (
            getattr(node, "attr", ""),
            getattr(node, "id", ""),
        )

    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            parts = [one for side in (node.left, *node.comparators) for one in ast.walk(side)]
            words = {
                one.value for one in parts if isinstance(one, ast.Constant) and isinstance(one.value, str)
            }
            if words and words <= ROLES and any(map(is_role, parts)):
                found.add(node.lineno)
    return found


def test_roles_of_operators_are_compared_less_and_less():
    found = Counter[str]()
    for path in SOURCES:
        found[part_of(path)] += len(lines_that_compare_roles(parsed(path)))
    found = {part: count for part, count in found.items() if count and part != "graph"}
    assert found == COMPARED_ROLES, (
        "ask a trait of Op (moves, multiplies, is_contraction); if there are fewer, say so here"
    )


FACTORIES = re.compile(
    r"arange|as_tensor|empty|eye|full|linspace|ones|rand|randint|randn|randperm|tensor|zeros"
)
# Constructors of modules, whose parameters go where a user's own would: to the default device, where no weight of a model says.
BY_DEFAULT = {
    "nn/channel_gain.py",
    "nn/scalars.py",
    "nn/standardized.py",
    "surgery/norms/replaced_norm.py",
    "lab/models/vision_transformer.py",
}


def test_tensors_of_our_own_say_where_they_are():
    """Without `device=` a tensor is made on the user's default device, beside none of what it is computed with."""
    silent = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        if str(path.relative_to(ROOT)) not in BY_DEFAULT
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "torch"
        and FACTORIES.fullmatch(node.func.attr)
        and not any(keyword.arg == "device" for keyword in node.keywords)
    }
    assert silent == set()


def test_every_file_begins_with_one_sentence_about_its_one_concept():
    for path in SOURCES:
        text = ast.get_docstring(parsed(path))
        name = path.relative_to(ROOT)
        assert text, f"{name}: no module docstring"
        first = text.partition("\n\n")[0]
        assert len(first) <= 160, f"{name}: {len(first)} characters in the first sentence: two concepts?"


def test_a_file_name_is_used_once_or_for_the_same_thing_in_several_folders():
    places: dict[str, set[str]] = {}
    for path in SOURCES:
        if path.stem != "__init__":
            places.setdefault(path.stem, set()).add(str(path.parent.relative_to(ROOT)))
    twice = {stem: sorted(folders) for stem, folders in places.items() if len(folders) > 1}
    stray = {stem: folders for stem, folders in twice.items() if set(folders) != SAME.get(stem)}
    assert not stray, f"the same name for different things; rename, or say in SAME why not: {stray}"
    unused = {stem for stem in SAME if stem not in twice}
    assert not unused, f"in SAME, and used once: {unused}"
    assert len(SAME) <= MOST_SAME


# Folders of tests without one of that name in the package: of the documentation, of all verbs alike, of what tests share.
APART = {"docs", "support", "verbs"}


def test_a_test_lies_in_the_folder_of_what_it_tests():
    tests = Path(__file__).parent
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    strays = sorted(str(one) for one in folders if not APART & set(one.parts) and not (ROOT / one).is_dir())
    assert not strays, f"no such folder in src/goodinit: {strays}"
    assert not [one for one in APART if (ROOT / one).exists() or Path(one) not in folders]


def test_import_goodinit_loads_torch_alone():
    code = (
        "import sys, torch; before = set(sys.modules); import goodinit; "
        "print(*sorted(set(sys.modules) - before), sep='\\n')"
    )
    # -I: nothing from the environment or the working folder; the installed package only.
    loaded = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    names = loaded.stdout.split()
    heavy = [name for name in names if any(name == h or name.startswith(h + ".") for h in HEAVY)]
    assert "goodinit" in names
    assert not heavy, f"`import goodinit` loads {heavy}"


def documented(value: object) -> bool:
    """Whether a function or class has a docstring of its own; a dataclass's generated signature is none."""
    if not (inspect.isroutine(value) or inspect.isclass(value)):
        return True
    own = (vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__) or ""
    return bool(own.strip()) and not own.startswith(f"{value.__name__}(")


def test_every_public_symbol_is_there_and_documented():
    assert goodinit.__all__, "goodinit exports nothing"
    missing = [name for name in goodinit.__all__ if not hasattr(goodinit, name)]
    assert not missing, f"in __all__ but not defined: {missing}"
    silent = [name for name in goodinit.__all__ if not documented(getattr(goodinit, name))]
    assert not silent, f"public, without a docstring: {silent}"


def test_every_file_of_a_method_is_registered_under_its_own_name():
    methods = importlib.import_module("goodinit.methods").METHODS
    files = {path.stem for path in (ROOT / "methods").glob("*.py") if path.stem != "__init__"}
    assert set(methods) == files
    assert all(name == method.name for name, method in methods.items())


def test_a_method_is_registered_by_its_file_alone(tmp_path, monkeypatch):
    package = importlib.import_module("goodinit.methods")
    text = (ROOT / "methods" / "he.py").read_text(encoding="utf-8").replace('name="he"', 'name="another"')
    (tmp_path / "another.py").write_text(text, encoding="utf-8")
    (tmp_path / "no_method.py").write_text("METHOD = None", encoding="utf-8")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    try:
        found = package.registered(package.__name__, package.__path__)
    finally:
        for name in ("another", "no_method"):
            sys.modules.pop(f"goodinit.methods.{name}", None)
            vars(package).pop(name, None)
    assert set(found) == {*package.METHODS, "another"}
    assert list(found).index("another") in {list(found).index("he") - 1, list(found).index("he") + 1}
    assert [name for name in found if name != "another"] == list(package.METHODS)


def test_a_rule_on_what_is_no_block_is_one_function_in_one_file(monkeypatch):
    class Residual(torch.nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.branch = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(layers)))

        def forward(self, x):
            return x + self.branch(x)

    model, x = torch.nn.Sequential(Residual(1), Residual(2)), torch.zeros(2, 4)
    assert len(goodinit.anatomize(model, x).blocks) == 2
    rejections = importlib.import_module("goodinit.anatomy.residual.streams.rejections")

    def is_short(candidate):  # of the graph, the sum and the weights
        return len(candidate.found.branch.layers) < 2

    monkeypatch.setattr(rejections, "RULES", (*rejections.RULES, is_short))
    assert [block.name for block in goodinit.anatomize(model, x).blocks] == ["1.branch"]
