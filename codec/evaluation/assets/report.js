"use strict";
// Plots, BD-rate matrix and tables of the page of `codec report`.

{
  // Okabe and Ito's colours, which differ for colour-blind eyes too; ours takes the first.
  const COLOURS = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6bb1", "#7f7f7f"];
  const DASHES = ["8px,4px", "2px,3px", "8px,3px,2px,3px", "14px,4px", "5px,2px", "4px,6px"];
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star"];
  const TICKS = {
    wide: [0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10],
    narrow: [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10],
  };
  const codecs = Object.keys(data.means);
  const labels = Object.fromEntries(data.metrics.map(({ key, label }) => [key, label]));
  const digits = Object.fromEntries(data.metrics.map((metric) => [metric.key, metric.digits]));
  const published = new Map(data.published.map((curve) => [`published:${curve.name}`, curve]));
  const titleOf = (name) => published.get(name)?.title ?? data.titles[name];
  const theme = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 700px)");
  /** The rows of one codec and picture; all where either is "". */
  const rowsOf = (codec, picture) => data.rows.filter((row) => (
    (codec === "" || row.codec === codec) && (picture === "" || row.picture === picture)));
  const metricPairs = data.metrics.map(({ key, label }) => [key, label]);

  // Which published curves are shown: one choice, with a select beside every place that it governs.
  let choice = "main";
  const choices = document.querySelectorAll(".published-choice");
  const isShown = (curve) => choice === "all" || (choice === "main" && curve.main);
  for (const select of choices) {
    fill(select, [["main", "a few"], ["all", "all"], ["none", "none"]]);
    select.addEventListener("change", () => {
      choice = select.value;
      for (const other of choices) other.value = choice;
      drawCurves();
      drawMatrix();
    });
  }
  for (const element of document.querySelectorAll(".published")) element.hidden = published.size === 0;
  byId("published-pictures").textContent = data.same_pictures ? "the same pictures"
    : "other pictures, those of Kodak, and say where those codecs stand to each other, not to the measured ones";

  /** Text that Plotly, which reads simple HTML, will show as it is. */
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");

  // Plots ---------------------------------------------------------------------------------------------------

  function layout(x, y, revision) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const axis = { gridcolor: colour("line"), zeroline: false, linecolor: colour("line"), automargin: true };
    return {
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("ink") },
      paper_bgcolor: colour("paper"), plot_bgcolor: colour("paper"),
      margin: { l: 50, r: 10, t: 34, b: 45 },
      hovermode: "closest", hoverlabel: { align: "left" },
      // Zoom and hidden curves outlast whatever is drawn anew with the same axes.
      uirevision: revision,
      legend: {
        groupclick: "toggleitem", font: { size: 12 },
        ...(narrow.matches && { orientation: "h", y: -0.2, yanchor: "top" }),
      },
      xaxis: { ...axis, ...x }, yaxis: { ...axis, ...y },
    };
  }

  const CONFIG = {
    responsive: true, displaylogo: false,
    // Named one by one: newer versions of Plotly add a button that uploads the plot.
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
    toImageButtonOptions: { format: "svg", filename: "rate-distortion" },
  };

  function measuredTrace(name, points, x, y, hover) {
    const i = codecs.indexOf(name);
    const own = name === data.ours;
    return {
      name: plain(data.titles[name]), x: points.map((point) => point[x]), y: points.map((point) => point[y]),
      customdata: points.map(hover), hovertemplate: "%{customdata}<extra></extra>",
      mode: "lines+markers", line: { width: own ? 3.5 : 2, color: COLOURS[i % COLOURS.length] },
      marker: { size: own ? 8 : 6, symbol: SYMBOLS[i % SYMBOLS.length] }, legendgroup: "measured",
    };
  }

  /** What the pointer says of a point, with the name in bold. */
  function hoverText(title, point, lines) {
    const quality = point.quality === undefined ? [] : [`quality ${general(point.quality)}`];
    return [`<b>${plain(title)}</b>`, ...quality, ...lines].join("<br>");
  }
  const metricLine = (point, key) => `${plain(labels[key])}: ${decimals(point[key], digits[key])}`;

  function drawCurves() {
    const metric = byId("rd-metric").value;
    const picture = byId("rd-picture").value;
    const log = byId("rd-log").checked;
    const lines = (point) => {
      const others = ["psnr_db", metric].filter((key, i, all) => all.indexOf(key) === i && point[key] != null);
      return [`${decimals(point.bpp, 4)} bpp`, ...others.map((key) => metricLine(point, key))];
    };
    const traces = [];
    let largest = 0;
    for (const name of codecs) {
      const all = picture === "" ? data.means[name] : rowsOf(name, picture).sort((a, b) => a.quality - b.quality);
      const points = all.filter((point) => point[metric] != null);
      if (points.length === 0) continue;
      largest = Math.max(largest, ...points.map((point) => point.bpp));
      const hover = (point) => hoverText(data.titles[name], point, lines(point));
      traces.push(measuredTrace(name, points, "bpp", metric, hover));
    }
    if (picture === "") {
      const greys = theme.matches ? ["#9aa2aa", "#6f7982"] : ["#7b848c", "#a3abb3"];
      [...published.values()].forEach((curve, i) => {
        const points = curve.points.filter((point) => point[metric] != null);
        if (!isShown(curve) || points.length === 0) return;
        traces.push({
          name: curve.title, x: points.map((point) => point.bpp), y: points.map((point) => point[metric]),
          customdata: points.map((point) => hoverText(`${curve.title}, published`, point, lines(point))),
          hovertemplate: "%{customdata}<extra></extra>", mode: "lines+markers", opacity: 0.9,
          line: { width: 1.4, dash: DASHES[i % DASHES.length], color: greys[i % greys.length] },
          marker: { size: 4, symbol: `${SYMBOLS[i % SYMBOLS.length]}-open` },
          legendgroup: "published", legendgrouptitle: { text: "published" },
        });
      });
    }
    // A published curve may go on to rates that nobody measured here; they are there to be zoomed to.
    const smallest = Math.min(...traces.flatMap((trace) => trace.x));
    const range = log ? [Math.log10(smallest / 1.1), Math.log10(largest * 1.1)] : [0, largest * 1.05];
    const x = { title: { text: "bits per pixel" }, range, type: log ? "log" : "linear" };
    const ticks = TICKS[narrow.matches ? "narrow" : "wide"];
    if (log) Object.assign(x, { tickvals: ticks, ticktext: ticks.map(String) });
    const y = { title: { text: plain(labels[metric]) } };
    Plotly.react("rd-plot", traces, layout(x, y, `${metric} ${log} ${picture}`), CONFIG);
  }

  function drawSpeed() {
    const way = byId("speed-way").value;
    const unit = byId("speed-unit").value;
    const metric = byId("speed-metric").value;
    const [key, text] = unit === "s" ? [`${way}_s`, "seconds per picture"] : [`${way}_mps`, "megapixels per second"];
    const traces = [];
    for (const name of codecs) {
      const points = data.means[name].filter((point) => point[key] > 0 && point[metric] != null);
      if (points.length === 0) continue;
      traces.push(measuredTrace(name, points, key, metric, (point) => hoverText(data.titles[name], point, [
        `${point[key].toPrecision(3)} ${text}`, `${decimals(point.bpp, 4)} bpp`,
        ...(metric === "bpp" ? [] : [metricLine(point, metric)]),
      ])));
    }
    const direction = { decode: "decoding", encode: "encoding" }[way];
    const x = { title: { text: `${direction}, ${text}` }, type: "log", dtick: "D2" };
    const y = { title: { text: metric === "bpp" ? "bits per pixel" : plain(labels[metric]) } };
    Plotly.react("speed-plot", traces, layout(x, y, `${key} ${metric}`), CONFIG);
  }

  // BD-rate -------------------------------------------------------------------------------------------------

  function drawMatrix() {
    const metric = byId("bd-metric").value;
    const band = byId("bd-band").value;
    const figures = data.bd_rate[metric]?.[band];
    if (!figures) return;
    const names = Object.keys(figures).filter((name) => !published.has(name) || isShown(published.get(name)));
    const kind = (name) => (name === data.ours ? "ours" : published.has(name) ? "printed" : "");
    const head = make("tr", {}, make("th", { scope: "col", textContent: "codec \\ against" }), ...names.map((name) =>
      make("th", { scope: "col", className: kind(name) }, make("span", { textContent: titleOf(name) }))));
    const rows = names.map((test) => make("tr", {},
      make("th", { scope: "row", className: kind(test), textContent: titleOf(test), title: titleOf(test) }),
      ...names.map((anchor) => {
        const cell = make("td");
        if (test === anchor) return cell;
        const figure = figures[test][anchor];
        if (figure === null) {
          cell.textContent = "–";
          cell.dataset.detail =
            `${titleOf(test)} and ${titleOf(anchor)}: under four points, or no ${labels[metric]} in common.`;
        } else {
          const [percent, low, high] = figure;
          cell.textContent = signed(percent);
          const strength = Math.min(Math.abs(percent) / 80, 1) * 60;
          const colour = percent < 0 ? "good" : "bad";
          cell.style.background = `color-mix(in srgb, var(--${colour}) ${strength}%, transparent)`;
          cell.dataset.detail = `${titleOf(test)} against ${titleOf(anchor)}: ${signed(percent)} % bits at equal ` +
            `${labels[metric]}, mean from ${decimals(low, digits[metric])} to ${decimals(high, digits[metric])}.`;
        }
        cell.title = cell.dataset.detail;
        return cell;
      })));
    byId("bd-matrix").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
    offerCsv(byId("bd-matrix"), () => [
      [`BD-rate, %, ${labels[metric]}, ${band}`, ...names.map(titleOf)],
      ...names.map((test) => [titleOf(test), ...names.map((anchor) => figures[test][anchor]?.[0])]),
    ]);
  }

  byId("bd-matrix").addEventListener("click", (event) => {
    const cell = event.target.closest("td[data-detail]");
    if (cell) byId("bd-detail").textContent = cell.dataset.detail;
  });

  // The answer ----------------------------------------------------------------------------------------------

  function drawAnswer() {
    const { needs, loses, notes, metrics, table: rows } = data.answer;
    const paragraphs = (texts) => texts.map((text) => make("p", { textContent: text }));
    byId("answer").hidden = needs.length + notes.length === 0;
    byId("answer-needs").replaceChildren(...paragraphs(needs));
    byId("answer-loses").replaceChildren(...paragraphs([...loses, ...notes]));
    byId("answer-table").parentElement.hidden = rows.length === 0 || metrics.length === 0;
    const share = (figure) => {
      if (figure === null) return "–";
      const [percent, low, high] = figure;
      const text = `${decimals(percent, 1)} %`;
      return low === null ? text : `${text} (${decimals(low, 0)} to ${decimals(high, 0)})`;
    };
    table(byId("answer-table"), [
      { key: "title", label: `bytes of ${data.titles[data.ours]}, in % of`, text: "text" },
      ...metrics.map(({ key, label }) => ({ key, label: `at equal ${label}`, show: share })),
    ], rows);
  }

  // Tables --------------------------------------------------------------------------------------------------

  const seconds = (value) => decimals(value, 3);
  const timeColumns = [
    { key: "encode_s", label: "encode s", show: seconds }, { key: "decode_s", label: "decode s", show: seconds },
  ];

  function drawMeans() {
    table(byId("means-table"), [
      { key: "quality", label: "quality", show: general },
      { key: "bpp", label: "bpp", show: (value) => decimals(value, 4) },
      ...metricColumns(), ...timeColumns,
      { key: "encode_mps", label: "encode MP/s", show: (value) => decimals(value, 2) },
      { key: "decode_mps", label: "decode MP/s", show: (value) => decimals(value, 2) },
    ], data.means[byId("means-codec").value]);
  }

  function drawRows() {
    const rows = rowsOf(byId("rows-codec").value, byId("rows-picture").value);
    table(byId("rows-table"), [
      { key: "picture", label: "picture", text: "text" },
      { key: "codec", label: "codec", text: "text", show: (value) => data.titles[value] },
      { key: "quality", label: "quality", show: general },
      { key: "bytes", label: "bytes", show: (value) => value.toLocaleString("en") },
      { key: "bpp", label: "bpp", show: (value) => decimals(value, 4) },
      ...metricColumns(), ...timeColumns,
    ], rows);
  }

  function drawPerPicture() {
    const anchors = Object.keys(data.per_picture);
    byId("per-picture").hidden = anchors.length === 0;
    const rows = data.pictures.map((picture) => ({
      picture, ...Object.fromEntries(anchors.map((name) => [`against ${name}`, data.per_picture[name][picture]])),
    }));
    table(byId("per-picture-table"), [
      { key: "picture", label: "picture", text: "text" },
      ...anchors.map((name) => ({
        key: `against ${name}`, label: `against ${data.titles[name]}, %`, show: (value) => signed(value),
      })),
    ], rows);
  }

  function drawSources() {
    const link = (text, href) => (href ? make("a", { href, textContent: text, rel: "noreferrer" }) : text);
    table(byId("sources-table"), [
      { key: "title", label: "curve", text: "text" },
      { key: "paper", label: "paper", text: "text", show: (text, row) => link(text ?? "–", row.paper_url) },
      { key: "notes", label: "what it is", text: "text wrap" },
      {
        key: "source", label: "source of the figures", text: "text",
        show: (text, row) => link(text.split(":")[0], row.source_url),
      },
    ], data.published);
  }

  function describe() {
    const { date, cpu, threads, versions = {}, system, cores, codecs: settings = {} } = data.conditions;
    const count = data.pictures.length;
    const monotone = data.violations === 0 ? "rate and PSNR rise with quality on every picture"
      : `rate or PSNR fails to rise with quality in ${data.violations} places`;
    byId("summary").textContent = [
      `${count} ${count === 1 ? "picture" : "pictures"}`, date?.slice(0, 10), cpu,
      threads && `${threads} ${threads === 1 ? "thread" : "threads"}`, `${data.titles[data.ours]}: ${monotone}`,
    ].filter(Boolean).join(" · ");
    byId("speed-note").textContent = `Measured on ${cpu ?? "an unknown processor"}.` +
      (published.size > 0 ? " Published curves are left out: their times are of other machines." : "");
    const show = (value) => (value !== null && typeof value === "object" && !Array.isArray(value)
      ? Object.entries(value).map(([key, inner]) => `${key} ${show(inner)}`).join(", ")
      : Array.isArray(value) ? value.map(show).join(" ") : String(value));
    const entries = [
      ["date", date], ["processor", cpu], ["cores", cores], ["threads", threads], ["system", system],
      ["versions", show(versions)],
      ...Object.entries(settings).map(([name, value]) => [data.titles[name] ?? name, show(value)]),
    ].filter(([, value]) => value !== undefined);
    byId("conditions-list").replaceChildren(...entries.flatMap(([key, value]) => [
      make("dt", { textContent: key }), make("dd", { textContent: value }),
    ]));
  }

  // Controls ------------------------------------------------------------------------------------------------

  const codecPairs = codecs.map((name) => [name, data.titles[name]]);
  const picturePairs = data.pictures.map((name) => [name, name]);
  fill(byId("rd-metric"), metricPairs);
  fill(byId("rd-picture"), [["", "mean of all"], ...picturePairs]);
  fill(byId("bd-metric"), Object.keys(data.bd_rate).map((key) => [key, labels[key]]));
  fill(byId("bd-band"), Object.keys(Object.values(data.bd_rate)[0] ?? {}).map((band) => [band, band]));
  fill(byId("speed-metric"), [...metricPairs, ["bpp", "bits per pixel"]]);
  fill(byId("means-codec"), codecPairs);
  fill(byId("rows-codec"), [["", "all"], ...codecPairs]);
  byId("rows-codec").value = data.ours;
  fill(byId("rows-picture"), [["", "all"], ...picturePairs]);
  const absent = {
    "bd-rate": Object.keys(data.bd_rate).length === 0,
    // Of several codings at once, which is no measure of any.
    speed: data.conditions.times_comparable === false,
  };
  for (const [id, hidden] of Object.entries(absent)) {
    byId(id).hidden = document.querySelector(`nav a[href="#${id}"]`).hidden = hidden;
  }

  const draws = { rd: drawCurves, bd: drawMatrix, speed: drawSpeed, means: drawMeans, rows: drawRows };
  for (const [prefix, draw] of Object.entries(draws)) {
    for (const control of document.querySelectorAll(`[id^="${prefix}-"]:is(select, input)`)) {
      control.addEventListener("change", draw);
    }
    draw();
  }
  drawAnswer();
  drawPerPicture();
  drawSources();
  describe();
  for (const query of [theme, narrow]) {
    query.addEventListener("change", () => {
      drawCurves();
      drawSpeed();
    });
  }
}
