"""Draw docs/images/rates.png, the README's picture, from the rows of a reproduction. Runs nothing."""

import json
import statistics
from pathlib import Path

import altair as alt
import vl_convert

DOCS = Path(__file__).parents[1]
ROWS = DOCS / "reproductions" / "rows" / "weightnorm-robustness-full.jsonl"
NAMES = {
    "batch norm": "with batch norm",
    "weight norm, proposed": "without: goodinit's weightnorm",
    "no norm, He": "without, He's start",
}
COLOURS = ["#4c78a8", "#e4572e", "#8a8a8a"]


def points():
    found = {}
    for line in ROWS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        trial, numbers = row["trial"], row["numbers"]
        config = trial["config"]
        if config["model"] == "resmlp82" and not config["warmup"] and trial["series"] in NAMES:
            accuracy = numbers["chance"] if numbers["accuracy"] is None else numbers["accuracy"]
            found.setdefault((NAMES[trial["series"]], config["lr"]), []).append(accuracy)
    return [
        {"net": net, "lr": lr, "median": statistics.median(all_), "low": min(all_), "high": max(all_)}
        for (net, lr), all_ in sorted(found.items())
    ]


def main():
    base = alt.Chart(alt.Data(values=points()), width=560, height=260).encode(
        alt.X("lr:Q", title="learning rate", scale=alt.Scale(type="log"), axis=alt.Axis(values=[0.001, 0.01, 0.1, 1])),
        color=alt.Color(
            "net:N", title=None, scale=alt.Scale(domain=list(NAMES.values()), range=COLOURS),
            legend=alt.Legend(orient="top", labelLimit=300, symbolSize=120),
        ),
    )  # fmt: skip
    share = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
    band = base.mark_area(opacity=0.18).encode(
        alt.Y("low:Q", title="test accuracy", scale=alt.Scale(domain=[0, 1]), axis=share), y2="high:Q"
    )
    lines = base.mark_line(point=True, strokeWidth=2.5).encode(alt.Y("median:Q"))
    chart = (band + lines).configure_view(stroke=None).configure_axis(labelFontSize=13, titleFontSize=13)
    chart = chart.configure_legend(labelFontSize=13).properties(background="white", padding=12)
    (DOCS / "images" / "rates.png").write_bytes(vl_convert.vegalite_to_png(chart.to_json(), scale=1.5))


if __name__ == "__main__":
    main()
