"""Draw the graph of the workflow's rules, as Snakemake plans them for a run, as an SVG.

    python docs/building/rule_graph.py docs/images/rules.svg

writes the picture; `make rule-graph` does it for the documentation, and a test compares the two.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN, OVERLAY = "distill_then_finetune", "demo"
WIDTH, HEIGHT = 216, 30  # of a box, in pixels
GAP, BEND, MARGIN = 28, 22, 16  # between boxes, between lines, around the picture
STYLE = """\
    text { font: 12.5px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1f2328; }
    .card { fill: #ffffff; stroke: #d0d7de; }
    .box { fill: #e2effa; stroke: #0072b2; }
    .line { fill: none; stroke: #57606a; stroke-width: 1.3; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; } .card { fill: #16191f; stroke: #3b424b; }
      .box { fill: #12314a; stroke: #58b0e8; } .line { stroke: #a2abb5; }
    }"""

Graph = dict[str, set[str]]  # rules, and the rules on which each depends
Node = str | tuple[str, str, int]


def plan_graph() -> Graph:
    """Return the rules of the run, under short names, with what they depend on directly."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--cores", "1", "--rulegraph", "mermaid-js"]
    command += ["--config", f"run={RUN}", f"overlay={OVERLAY}", "benchmark_repeats=1"]
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    names = dict(re.findall(r"^\s*(id\d+)\[(\w+)\]$", done.stdout, re.MULTILINE))
    graph: Graph = {short_name(name): set() for name in names.values()}
    for start, end in re.findall(r"^\s*(id\d+) --> (id\d+)$", done.stdout, re.MULTILINE):
        graph[short_name(names[end])].add(short_name(names[start]))
    return without_detours(graph)


def short_name(rule: str) -> str:
    """Return the name of a rule without the names of the run, its data set and its features."""
    name = re.sub(rf"_{RUN}_{OVERLAY}|_synthetic_\w+?_seed\d+(_run_\w+)?", "", rule)
    return name.replace(f"_demo_teacher_{OVERLAY}", " demo_teacher")


def without_detours(graph: Graph) -> Graph:
    """Return the graph without a line from a rule to another that a longer path reaches too."""
    reached: Graph = {}

    def reach(rule: str) -> set[str]:
        if rule not in reached:
            reached[rule] = set().union(*({d} | reach(d) for d in graph[rule]))
        return reached[rule]

    return {
        rule: {d for d in needs if not any(d in reach(other) for other in needs - {d})}
        for rule, needs in graph.items()
    }


def draw(graph: Graph) -> str:
    """Return the graph as SVG: each rule stands below all that it depends on."""
    rows = rows_of(graph)
    places, width = columns_of(graph, rows)
    lines, boxes = [], []
    for rule in sorted(graph):
        for needed in sorted(graph[rule]):
            bends = [(rule, needed, row) for row in range(rows[needed] + 1, rows[rule])]
            lines.append(_line([places[needed], *(places[bend] for bend in bends), places[rule]]))
        x, y = places[rule]
        boxes.append(
            f'  <rect class="box" x="{x - WIDTH // 2}" y="{y}" width="{WIDTH}" height="{HEIGHT}" '
            f'rx="6"/>\n  <text x="{x}" y="{y + 20}" text-anchor="middle">{rule}</text>'
        )
    height = 2 * MARGIN + HEIGHT + max(rows.values()) * (HEIGHT + GAP)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
            f"  <title>Rules of the run {RUN} and what each depends on</title>",
            f"  <style>\n{STYLE}\n  </style>",
            f'  <rect class="card" width="{width}" height="{height}" rx="10"/>',
            *lines,
            *boxes,
            "</svg>\n",
        ]
    )


def rows_of(graph: Graph) -> dict[str, int]:
    """Return the row of each rule: the length of the longest path that leads to it."""
    rows: dict[str, int] = {}

    def row(rule: str) -> int:
        if rule not in rows:
            rows[rule] = 1 + max(map(row, graph[rule]), default=-1)
        return rows[rule]

    return {rule: row(rule) for rule in graph}


def columns_of(graph: Graph, rows: dict[str, int]) -> tuple[dict[Node, tuple[int, int]], int]:
    """Return x of the middle and y of the top of each node, and the width of the picture.

    Nodes are rules, and the bends of lines that pass other rows: (rule, needed, row).
    """
    layers: dict[int, list[Node]] = {row: [] for row in range(max(rows.values()) + 1)}
    above: dict[Node, list[Node]] = {}
    for rule in sorted(graph):
        layers[rows[rule]].append(rule)
        for needed in sorted(graph[rule]):
            last: Node = needed
            for row in range(rows[needed] + 1, rows[rule]):
                bend = (rule, needed, row)
                layers[row].append(bend)
                above[bend], last = [last], bend
            above.setdefault(rule, []).append(last)
    total = max(sum(_width(node) for node in layer) for layer in layers.values())
    places: dict[Node, tuple[int, int]] = {}
    for row, layer in layers.items():
        wanted = {n: [places[a][0] for a in above.get(n, [])] or [total // 2] for n in layer}
        # Rules stand left of lines that only pass, so that the chain of rules stays together.
        order = sorted(
            layer, key=lambda n: (not isinstance(n, str), sum(wanted[n]) / len(wanted[n]), str(n))
        )
        x = MARGIN
        for node in order:
            places[node] = x + _width(node) // 2, MARGIN + row * (HEIGHT + GAP)
            x += _width(node)
    return places, 2 * MARGIN + total


def _width(node: Node) -> int:
    return WIDTH + GAP if isinstance(node, str) else BEND


def _line(places: list[tuple[int, int]]) -> str:
    """Return the path from below the first node, straight past those between, to the last one."""
    (x, y), *others = places
    path = f"M{x} {y + HEIGHT}"
    for number, (next_x, next_y) in enumerate(others, start=1):
        middle = next_y - GAP // 2
        path += f" C{x} {middle} {next_x} {middle} {next_x} {next_y}"
        path += f" V{next_y + HEIGHT}" if number < len(others) else ""
        x = next_x
    return f'  <path class="line" d="{path}"/>'


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/building/rule_graph.py FILE.svg")
    Path(sys.argv[1]).write_text(draw(plan_graph()))
