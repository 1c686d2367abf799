"use strict";
// What the scripts of a page share. Names of pictures and codecs go into the page as text, never as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

/** An element with properties and children (elements or text). */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A number with some decimals and a real minus sign, but none before a zero; a dash for null. */
function decimals(value, digits) {
  return value == null ? "–" : value.toFixed(digits).replace(/^-(?=[0.]*$)/, "").replace("-", "−");
}

function signed(value, digits = 1) {
  const text = decimals(value, digits);
  return value > 0 && Number(text) !== 0 ? `+${text}` : text;
}

/** At most six significant digits, for qualities on anybody's scale. */
function general(value) {
  return value == null ? "–" : String(Number(value.toPrecision(6)));
}

/** Fill a select with pairs [value, text]; the chosen value stays where it can. */
function fill(select, pairs) {
  const chosen = select.value;
  select.replaceChildren(...pairs.map(([value, text]) => make("option", { value, textContent: text })));
  if (pairs.some(([value]) => String(value) === chosen)) select.value = chosen;
}

/** One field of a CSV file. A text that a spreadsheet would take for a formula begins with an apostrophe. */
function csvField(value) {
  if (value == null) return "";
  if (typeof value === "number") return String(value);
  const text = Array.isArray(value) ? value.map((part) => part ?? "").join(" ") : String(value);
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** Put a button behind a table (or its scrolling frame) that saves lines of values as a CSV file. */
function offerCsv(element, lines) {
  const frame = element.parentElement.classList.contains("scroll") ? element.parentElement : element;
  if (frame.nextElementSibling?.classList.contains("save")) frame.nextElementSibling.remove();
  const button = make("button", { type: "button", className: "save", textContent: "CSV" });
  button.setAttribute("aria-label", `Save ${frame.getAttribute("aria-label") ?? "the table"} as CSV`);
  button.addEventListener("click", () => {
    const text = lines().map((line) => `${line.map(csvField).join(",")}\n`).join("");
    const href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    make("a", { href, download: `${element.id}.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 10000);
  });
  frame.after(button);
}

/**
 * A table that sorts by the column whose heading is clicked: first rising, then falling. Missing values stay last.
 * columns: {key, label, text: whether it is a word, show: value -> text or element}
 */
function table(element, columns, rows) {
  const body = make("tbody");
  let sorted = { key: null, rising: true };

  function draw() {
    const shown = [...rows];
    if (sorted.key !== null) {
      shown.sort((a, b) => {
        const [x, y] = [a[sorted.key], b[sorted.key]];
        if (x == null || y == null) return (x == null) - (y == null);
        const order = typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
        return sorted.rising ? order : -order;
      });
    }
    body.replaceChildren(...shown.map((row) => make("tr", {}, ...columns.map((column) => {
      const value = row[column.key];
      const content = column.show ? column.show(value, row) : value ?? "–";
      return make("td", { className: column.text ? column.text : "" }, content);
    }))));
    heads.forEach((head, i) => {
      const active = columns[i].key === sorted.key;
      head.setAttribute("aria-sort", active ? (sorted.rising ? "ascending" : "descending") : "none");
    });
  }

  const heads = columns.map((column) => {
    const button = make("button", { type: "button", textContent: column.label });
    button.addEventListener("click", () => {
      sorted = { key: column.key, rising: column.key === sorted.key ? !sorted.rising : true };
      draw();
    });
    return make("th", { scope: "col", className: column.text ? "text" : "" }, button);
  });
  element.replaceChildren(make("thead", {}, make("tr", {}, ...heads)), body);
  draw();
  const keys = columns.map(({ key }) => key);
  offerCsv(element, () => [columns.map(({ label }) => label), ...rows.map((row) => keys.map((key) => row[key]))]);
}

/** Columns of the metrics for a table. */
const metricColumns = () => data.metrics.map(({ key, label, digits }) => ({
  key, label, show: (value) => decimals(value, digits),
}));
