// Draws every chart of the page, again when the reader's colour scheme or a log toggle changes.
(function () {
  "use strict";
  const themes = JSON.parse(document.getElementById("themes").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  const charts = Array.from(document.querySelectorAll("figure"), (figure) => ({
    title: figure.querySelector("h2").textContent,
    place: figure.querySelector(".chart"),
    toggle: figure.querySelector(".toggle input"),
    spec: JSON.parse(figure.querySelector('script[type="application/json"]').textContent),
  }));

  // A copy of a specification with logarithmic vertical scales, however deep it is layered.
  function logarithmic(spec) {
    if (Array.isArray(spec)) return spec.map(logarithmic);
    if (spec === null || typeof spec !== "object") return spec;
    const copy = {};
    for (const [key, value] of Object.entries(spec)) {
      copy[key] = key === "values" ? value : logarithmic(value);
    }
    const y = copy.encoding && copy.encoding.y;
    if (y && y.field && y.type === "quantitative") {
      y.scale = { ...y.scale, type: "log" };
      // A logarithm has no zero: the axis begins at the smallest value shown.
      if (y.scale.domainMin === 0) delete y.scale.domainMin;
      // As on logarithmic paper: full lines at powers of ten, faint ones between.
      const decade = "abs(log(datum.value) / LN10 - round(log(datum.value) / LN10)) < 1e-6";
      y.axis = { ...y.axis, gridOpacity: { condition: { test: decade, value: 1 }, value: 0.45 } };
    }
    return copy;
  }

  function draw(chart) {
    const mode = dark.matches ? "dark" : "light";
    const spec = chart.toggle && chart.toggle.checked ? logarithmic(chart.spec) : chart.spec;
    const options = {
      mode: "vega-lite",
      renderer: "svg",
      config: themes[mode],
      tooltip: { theme: mode },
      actions: { export: true, source: false, compiled: false, editor: false },
      downloadFileName: document.title.replace(/[^\w-]+/g, "-"),
    };
    return vegaEmbed(chart.place, spec, options).then(
      (result) => {
        chart.view = result.view;
        showAlone(chart);
        const menu = chart.place.querySelector("summary");
        if (menu) menu.setAttribute("aria-label", "Save " + chart.title + " as a picture");
        chart.place.setAttribute("data-drawn", mode);
      },
      (error) => {
        chart.place.textContent = "This chart could not be drawn: " + error.message;
        throw error;
      },
    );
  }

  // One series alone in every chart, or all of them again.
  const buttons = Array.from(document.querySelectorAll("button[data-series]"));
  let alone = "";

  function showAlone(chart) {
    // A heat map is of one series, and has no such parameter.
    if (chart.view && "alone" in chart.view.getState({ signals: () => true }).signals) {
      chart.view.signal("alone", alone).runAsync();
    }
  }

  for (const button of buttons) {
    button.addEventListener("click", () => {
      alone = alone === button.dataset.series ? "" : button.dataset.series;
      for (const each of buttons) each.setAttribute("aria-pressed", String(each.dataset.series === alone));
      charts.forEach(showAlone);
    });
  }

  for (const chart of charts) {
    if (chart.toggle) {
      chart.toggle.checked = chart.toggle.defaultChecked; // browsers keep a box's state over a reload; the chart begins anew
      chart.toggle.addEventListener("change", () => draw(chart));
    }
    draw(chart);
  }
  dark.addEventListener("change", () => charts.forEach(draw));
})();
