// Draws the charts of a page with uPlot: an element's data-chart is JSON with times, a unit, series and perhaps bands between them.
"use strict";

(() => {
  const HEIGHT_PX = 200;
  const drawn = new Map();
  const DAY_S = 86_400;
  const minutes = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };

  // What a time is written with depends on the span: seconds within minutes, and the day if there are several.
  function clockOf(times) {
    const span = times.length ? times[times.length - 1] - times[0] : 0;
    const more = span < 600 ? { second: "2-digit" } : span > 2 * DAY_S ? { day: "numeric", month: "short" } : {};
    const clock = new Intl.DateTimeFormat(undefined, { ...minutes, ...more });
    return (seconds) => (seconds == null ? "" : clock.format(new Date(seconds * 1000)));
  }

  // Variables with both themes' colours are resolved by an element that has them.
  function colour(name) {
    const probe = document.createElement("span");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  }

  function transparent(rgb) {
    return rgb.replace("rgb(", "rgba(").replace(")", ", 0.12)");
  }

  // A value without neighbours has no line, so it is drawn as a point.
  function isolated(values) {
    return values.flatMap((value, at) => (value != null && values[at - 1] == null && values[at + 1] == null ? [at] : []));
  }

  function format(value, unit) {
    if (value == null) return "–";
    if (unit === "share") return `${Number((value * 100).toPrecision(3))} %`;
    if (unit === "USD") return `$${Number(value.toPrecision(3))}`;
    if (unit === "score") return String(Number(value.toPrecision(3)));
    if (unit !== "s") return String(Math.round(value * 10) / 10);
    return value < 1 ? `${Math.round(value * 1000)} ms` : `${Math.round(value * 100) / 100} s`;
  }

  function tick(value, unit) {
    return ["s", "share", "USD", "score"].includes(unit) ? format(value, unit) : String(value);
  }

  // An interval's bounds aren't series of their own for the reader: they stand behind its value.
  function formatInterval(value, bounds, unit) {
    if (value == null || !bounds) return format(value, unit);
    const [low, high] = bounds.map((bound) => (bound == null ? "∞" : format(bound, unit)));
    return `${format(value, unit)} (${low} to ${high})`;
  }

  function draw(element) {
    const { times, unit, series, bands = [], range } = JSON.parse(element.dataset.chart);
    const showTime = clockOf(times);
    const lines = series.map((line) => {
      const stroke = colour(line.colour);
      return {
        label: line.label,
        stroke,
        width: line.bound ? 0 : 1.5,
        dash: line.dashed ? [4, 3] : undefined,
        class: line.bound ? "bound" : undefined,
        fill: line.fill ? transparent(stroke) : undefined,
        points: { show: !line.bound, size: 5, filter: () => isolated(line.values) },
        value: (_, value, __, at) => formatInterval(value, line.bounds?.[at], unit),
        spanGaps: false,
      };
    });
    // Where the cursor isn't on the chart, its legend has the newest values.
    const newest = times.findLastIndex((_, at) => series.some((line) => line.values[at] != null));
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const options = {
      width: Math.max(200, element.clientWidth),
      height: HEIGHT_PX,
      cursor: { points: { size: 6 }, drag: { x: false, y: false } },
      legend: { live: true, markers: { width: 0, fill: (_, at) => lines[at - 1].stroke } },
      hooks: { setCursor: [(chart) => chart.cursor.idx == null && chart.setLegend({ idx: newest })] },
      padding: [12, 28, 0, 4],
      scales: { y: { range: range ?? ((_, low, high) => [0, high > 0 ? high * 1.15 : 1]) } },
      bands: bands.map(([high, low]) => ({ series: [high, low], fill: transparent(colour(series[high - 1].colour)) })),
      series: [{ label: "at", value: (_, seconds) => showTime(seconds) || "–" }, ...lines],
      axes: [{ ...axis, space: 64, size: 30, values: (_, times) => times.map(showTime) }, { ...axis, size: 62, values: (_, values) => values.map((value) => tick(value, unit)) }],
    };
    element.replaceChildren();
    const chart = new uPlot(options, [times, ...series.map((line) => line.values)], element);
    if (newest >= 0) chart.setLegend({ idx: newest });
    drawn.set(element, chart);
  }

  function drawAll(root) {
    for (const element of drawn.keys()) {
      if (element.isConnected) continue;
      drawn.get(element).destroy();
      drawn.delete(element);
    }
    root.querySelectorAll("[data-chart]").forEach(draw);
  }

  document.addEventListener("enhance", (event) => drawAll(event.detail));
  document.addEventListener("themechange", () => drawAll(document));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(document));
  addEventListener("resize", () => {
    for (const [element, chart] of drawn) chart.setSize({ width: Math.max(200, element.clientWidth), height: HEIGHT_PX });
  });
})();
