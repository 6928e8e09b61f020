// Elements, numbers as text, and charts in SVG. Text from the data becomes text nodes only, never markup.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const COLORS = 8;

/** An element with attributes (functions become listeners) and children; what is null or false is left out. */
function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function color(i) {
  return `var(--c${i % COLORS})`;
}

const UNITS = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

function trimmed(text) {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

/** A number for people. Units: fraction (as percent), count (with k, M, G), secs. */
function number(value, unit) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (unit === "fraction") return (100 * value).toFixed(2) + " %";
  if (unit === "secs") return duration(value);
  const size = Math.abs(value);
  const step = UNITS.find(([least]) => size >= least);
  if ((unit === "count" || size >= 1e5) && step) return trimmed((value / step[0]).toPrecision(4)) + " " + step[1];
  if (Number.isInteger(value)) return String(value);
  return size < 1e-3 ? value.toExponential(2) : trimmed(value.toPrecision(size >= 1000 ? 5 : 4));
}

function duration(secs) {
  if (secs < 120) return `${secs < 10 ? number(secs) : trimmed(secs.toFixed(1))} s`;
  const [hours, minutes] = [Math.floor(secs / 3600), Math.floor((secs % 3600) / 60)];
  return hours ? `${hours} h ${minutes} min` : `${minutes} min ${Math.round(secs % 60)} s`;
}

/** Round numbers inside a range. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
    for (const factor of [1, 2, 5]) {
      const tick = factor * 10 ** power;
      if (tick >= low * 0.999 && tick <= high * 1.001) found.push(tick);
    }
  }
  return found;
}

/**
 * The range of an axis. Unless `all`, what lies far outside the middle half (three times its width) does not stretch it, but for
 * the side where the good ones are: `keep` is high or low.
 */
function domain(values, { all = true, keep, log = false, pad = 0.04 } = {}) {
  const sorted = values.filter((v) => Number.isFinite(v) && (!log || v > 0)).sort((a, b) => a - b);
  if (!sorted.length) return null;
  const shape = log ? Math.log10 : (v) => v;
  const at = (part) => shape(sorted[Math.round(part * (sorted.length - 1))]);
  let [low, high] = [at(0), at(1)];
  if (!all) {
    const spread = at(0.75) - at(0.25);
    const inner = [
      keep === "low" ? low : Math.max(low, at(0.25) - 3 * spread),
      keep === "high" ? high : Math.min(high, at(0.75) + 3 * spread),
    ];
    if (spread > 0 && inner[1] - inner[0] < 0.7 * (high - low)) [low, high] = inner;
  }
  if (low === high) {
    const around = log ? 0.3 : Math.abs(low) * 0.05 || 0.5;
    [low, high] = [low - around, high + around];
  } else {
    const room = pad * (high - low);
    [low, high] = [low - room, high + room];
  }
  return log ? [10 ** low, 10 ** high] : [low, high];
}

const tip = {
  show(event, content) {
    const box = document.getElementById("tip");
    box.replaceChildren(...content.filter(Boolean));
    box.hidden = false;
    const { width, height } = box.getBoundingClientRect();
    const left = Math.min(event.clientX + 16, innerWidth - width - 8);
    const top = event.clientY + 16 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 16;
    box.style.left = `${Math.max(8, left)}px`;
    box.style.top = `${Math.max(8, top)}px`;
  },
  hide() {
    document.getElementById("tip").hidden = true;
  },
};

/** Name and value in the tip. */
function line(name, value) {
  return h("div", { class: "pair" }, h("span", {}, name), h("b", {}, value));
}

/**
 * A chart. Axes: {label, range, log, unit, whole}. Series: {name, color, kind: line | step | dots, points: [{x, y, ...}],
 * faint, dash, size, hover}; bands: {color, points: [{x, low, high}]}. Points outside a range are drawn at its edge, as triangles.
 */
function chart({ title, x, y, series, bands = [], tips, click, width = 640, height = 300 }) {
  const [left, right, top, bottom] = [64, 14, 12, 44];
  const [w, hgt] = [width - left - right, height - top - bottom];
  const scale = (axis, size, flip) => {
    const f = axis.log ? Math.log10 : (v) => v;
    const [low, high] = [f(axis.range[0]), f(axis.range[1])];
    return (v) => {
      const part = Math.max(0, Math.min(1, (f(v) - low) / (high - low)));
      return flip ? top + size * (1 - part) : left + size * part;
    };
  };
  const [px, py] = [scale(x, w, false), scale(y, hgt, true)];
  const outside = (v, axis) => v < axis.range[0] || v > axis.range[1];
  const marks = (axis, count) => {
    const found = axis.log ? logTicks(...axis.range) : ticks(...axis.range, count);
    return axis.whole ? found.filter(Number.isInteger) : found;
  };
  const svg = s("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  for (const v of marks(y, 5)) {
    svg.append(s("line", { class: "grid", x1: left, x2: left + w, y1: py(v), y2: py(v) }));
    svg.append(s("text", { class: "tick", x: left - 8, y: py(v) + 4, "text-anchor": "end" }, axisText(v, y)));
  }
  for (const v of marks(x, 7)) {
    svg.append(s("line", { class: "grid", x1: px(v), x2: px(v), y1: top, y2: top + hgt }));
    svg.append(s("text", { class: "tick", x: px(v), y: top + hgt + 17, "text-anchor": "middle" }, axisText(v, x)));
  }
  svg.append(s("text", { class: "label", x: left + w / 2, y: height - 6, "text-anchor": "middle" }, x.label));
  const turned = `rotate(-90 14 ${top + hgt / 2})`;
  svg.append(s("text", { class: "label", x: 14, y: top + hgt / 2, "text-anchor": "middle", transform: turned }, y.label));
  for (const band of bands) {
    const edge = (key, list) => list.map((p) => `${px(p.x)},${py(p[key])}`);
    const points = [...edge("high", band.points), ...edge("low", [...band.points].reverse())].join(" ");
    svg.append(s("polygon", { class: "band", points, fill: band.color }));
  }
  const targets = [];
  for (const one of series) {
    const points = one.points.filter((p) => Number.isFinite(p.x) && Number.isFinite(p.y) && !(x.log && p.x <= 0));
    const style = `stroke:${one.color};fill:${one.color}`;
    if (one.kind !== "dots" && points.length > 1) {
      const path = points.map((p, i) => {
        const to = `${px(p.x).toFixed(1)},${py(p.y).toFixed(1)}`;
        if (i === 0) return `M${to}`;
        return one.kind === "step" ? `H${px(p.x).toFixed(1)}V${py(p.y).toFixed(1)}` : `L${to}`;
      });
      const line = { class: one.faint ? "line faint" : "line", d: path.join(""), "stroke-dasharray": one.dash, style };
      svg.append(s("path", line));
    }
    let before = false;
    for (const p of points) {
      const at = [px(p.x), py(p.y)];
      if (one.hover !== false) targets.push({ at, point: p, series: one });
      const far = outside(p.x, x) || outside(p.y, y);
      const again = far && before;
      before = far;
      if (one.kind !== "dots" && (again || (points.length > 30 && !far))) continue;
      const size = p.size || one.size || 2.5;
      const up = p.y > y.range[1] ? -1 : 1;
      const [a, b] = [`${at[0] - 5},${at[1]}`, `${at[0] + 5},${at[1]}`];
      const shape = far
        ? s("polygon", { class: "dot", points: `${a} ${b} ${at[0]},${at[1] + 7 * up}`, style })
        : s("circle", { class: "dot", cx: at[0], cy: at[1], r: size, style });
      if (p.hollow) shape.classList.add("hollow");
      if (one.faint) shape.classList.add("faint");
      svg.append(shape);
    }
  }
  const ring = s("circle", { class: "ring", r: 6, visibility: "hidden" });
  svg.append(ring);
  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    const factor = width / box.width;
    const [ex, ey] = [(event.clientX - box.left) * factor, (event.clientY - box.top) * factor];
    let best = null;
    for (const target of targets) {
      const distance = (target.at[0] - ex) ** 2 + (target.at[1] - ey) ** 2;
      if (distance < 900 && (!best || distance < best.distance)) best = { ...target, distance };
    }
    return best;
  };
  svg.addEventListener("pointermove", (event) => {
    const found = nearest(event);
    ring.setAttribute("visibility", found ? "visible" : "hidden");
    if (!found) return tip.hide();
    ring.setAttribute("cx", found.at[0]);
    ring.setAttribute("cy", found.at[1]);
    tip.show(event, tips(found.point, found.series));
  });
  svg.addEventListener("pointerleave", () => {
    ring.setAttribute("visibility", "hidden");
    tip.hide();
  });
  if (click) {
    svg.classList.add("clickable");
    svg.addEventListener("click", (event) => {
      const found = nearest(event);
      if (found) click(found.point);
    });
  }
  return svg;
}

function axisText(value, axis) {
  if (axis.unit === "fraction") return trimmed((100 * value).toFixed(2)) + " %";
  if (axis.unit === "secs") return value === 0 ? "0" : duration(value);
  return number(Math.abs(value) < 1e-12 ? 0 : value, axis.unit);
}

/** A table whose columns sort. Columns: {name, unit, left}; cells: a value, or {value, node}. */
function table(columns, rows, { shown = 50, click, sort } = {}) {
  const value = (cell) => (cell !== null && typeof cell === "object" ? cell.value : cell);
  let [by, down] = sort || [null, true];
  let limit = shown;
  const body = h("tbody");
  const more = h("button", { class: "more", click: () => ((limit += 200), draw()) });
  const heads = columns.map((column, i) =>
    h("th", { class: column.left ? "left" : null, scope: "col" }, h("button", { click: () => order(i) }, column.name)));
  const order = (i) => {
    down = by === i ? !down : !columns[i].left;
    by = i;
    draw();
  };
  const compare = (a, b) => {
    const [x, y] = [value(a[by]), value(b[by])];
    const missing = (v) => v === null || v === undefined || v === "";
    if (missing(x) || missing(y)) return missing(x) - missing(y);
    const both = typeof x === "number" && typeof y === "number";
    const sign = both ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
    return down ? -sign : sign;
  };
  const draw = () => {
    const sorted = by === null ? rows : [...rows].sort((a, b) => compare(a.cells, b.cells));
    body.replaceChildren(...sorted.slice(0, limit).map((row) => {
      const cells = row.cells.map((cell, i) => {
        const text = cell !== null && typeof cell === "object" ? cell.node : number(cell, columns[i].unit);
        return h("td", { class: columns[i].wide ? "left wide" : columns[i].left ? "left" : null }, text);
      });
      return h("tr", { class: row.class, click: click && (() => click(row.item)) }, cells);
    }));
    heads.forEach((head, i) => head.setAttribute("aria-sort", by !== i ? "none" : down ? "descending" : "ascending"));
    more.hidden = rows.length <= limit;
    more.textContent = `${rows.length - limit} more rows`;
  };
  draw();
  const sheet = h("table", { class: click ? "clickable" : null }, h("thead", {}, h("tr", {}, heads)), body);
  return h("div", { class: "scroll" }, sheet, more);
}

function select(label, options, chosen, change) {
  const list = options.map(([value, text]) => h("option", { value, selected: value === chosen }, text));
  return h("label", {}, label, " ", h("select", { change: (event) => change(event.target.value) }, list));
}

function check(label, chosen, change) {
  const box = h("input", { type: "checkbox", checked: chosen, change: (event) => change(event.target.checked) });
  return h("label", {}, box, " ", label);
}
