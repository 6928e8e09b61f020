// The page of runs: `data` is {version, made_by, metrics, runs}, as task/commands/report/pages.rs writes it.

/** Metrics of the task are fractions. */
function unitOf(data, name) {
  const own = name.replace(/^supernet_/, "");
  if (data.metrics.some(([key]) => key === own)) return "fraction";
  if (/(^|_)(params|macs|flops)$/.test(own)) return "count";
  return /(^|_)secs$/.test(own) ? "secs" : undefined;
}

function headingOf(data, name) {
  const found = data.metrics.find(([key]) => key === name);
  const known = { lr: "learning rate", images_per_sec: "images/s", secs: "seconds of training" };
  return found ? found[1] : known[name] || name;
}

function picture(svg, text) {
  return h("img", { class: "drawing", alt: text, src: "data:image/svg+xml;charset=utf-8," + encodeURIComponent(svg) });
}

function section(id, title, ...content) {
  return h("section", { id }, h("h2", {}, title), content);
}

function badge(run) {
  return h("span", { class: run.done ? "badge done" : "badge" }, run.done ? "done" : "not done");
}

function facts(run) {
  return h("div", { class: "facts" }, run.facts.map(({ label, value, unit }) =>
    h("div", {}, h("span", {}, label), h("b", {}, number(value, unit)))));
}

/** What came of the runs: a table where there are several, then each by itself. */
function results(data) {
  const named = data.runs.filter((run) => !run.parent);
  const overview = named.length > 1 ? [overviewOf(named)] : [];
  const one = (run) => h("div", { class: "card" },
    h("h3", {}, run.name, " ", h("span", { class: "badge" }, run.kind || "run"), " ", badge(run)),
    run.notes.map((note) => h("p", { class: "note" }, note)),
    facts(run),
    run.tables.map((sheet) => [
      h("p", { class: "soft lines" }, sheet.title),
      table(sheet.head.map((name, i) => ({ name, left: i === 0 })), sheet.rows.map((cells) => ({ cells }))),
    ]),
    run.found && [
      h("code", { class: "notation" }, run.found.notation),
      run.found.drawing && picture(run.found.drawing, "the architecture that was found"),
    ],
    trainingsOf(data, run));
  return section("result", "Result", overview, named.map(one));
}

function overviewOf(runs) {
  const labels = [...new Set(runs.flatMap((run) => run.facts.map((fact) => fact.label)))];
  const units = labels.map((label) => runs.flatMap((run) => run.facts).find((fact) => fact.label === label).unit);
  const isText = (label) => runs.some((run) => run.facts.some((fact) => fact.label === label && typeof fact.value === "string"));
  const columns = [{ name: "run", left: true }, { name: "kind", left: true }, ...labels.map((name, i) => ({ name, unit: units[i], left: isText(name) }))];
  const rows = runs.map((run) => {
    const values = labels.map((label) => run.facts.find((fact) => fact.label === label)?.value);
    return { cells: [run.name, run.kind, ...values] };
  });
  return h("div", { class: "card" }, table(columns, rows));
}

function trainingsOf(data, run) {
  const trainings = data.runs.filter((other) => other.parent === run.name);
  if (!trainings.length) return null;
  return h("details", {}, h("summary", {}, `its ${trainings.length} trainings`), overviewOf(trainings));
}

/** Metrics over epochs: one panel each, all over the same axis; runs that differ in their seed share a colour and have a band. */
function curves(data) {
  const runs = data.runs.filter((run) => run.epochs.length);
  if (!runs.length) return null;
  const isNumber = (line, key) => typeof line[key] === "number" && !["epoch", "secs"].includes(key);
  const found = new Set(runs.flatMap((run) => run.epochs.flatMap((line) => Object.keys(line).filter((key) => isNumber(line, key)))));
  const first = ["loss", ...data.metrics.map(([key]) => key), "lr", "images_per_sec"];
  const names = [...first.filter((name) => found.has(name)), ...[...found].filter((name) => !first.includes(name))];
  const groupOf = (run) => (run.group ? `${run.parent}: ${run.group}` : run.name);
  const groups = [...new Set(runs.map(groupOf))];
  const state = { x: "epoch", all: false, off: new Set() };
  const timed = runs.every((run) => run.epochs.every((line) => typeof line.secs === "number"));
  const panels = h("div", { class: "grid2" });
  const draw = () => panels.replaceChildren(...names.map((name) => panel(name)));
  const panel = (name) => {
    const shown = runs.filter((run) => !state.off.has(groupOf(run)));
    const lines = shown.map((run) => {
      const points = run.epochs.filter((line) => isNumber(line, name) && typeof line[state.x] === "number");
      const several = runs.filter((other) => groupOf(other) === groupOf(run)).length > 1;
      return {
        name: run.name, color: color(groups.indexOf(groupOf(run))), faint: several, kind: "line",
        points: points.map((line) => ({ x: line[state.x], y: line[name], line })),
      };
    });
    const means = groups.flatMap((group, i) => meanOf(group, lines.filter((_, j) => groupOf(shown[j]) === group), color(i)));
    const values = lines.flatMap((one) => one.points.map((p) => p.y));
    const unit = unitOf(data, name);
    const width = domain(runs.flatMap((run) => run.epochs.map((line) => line[state.x])), { pad: 0.02 });
    // A score rises from its first epochs: those are no outliers.
    const range = domain(values, { all: state.all || !/loss/.test(name) });
    if (!range || !width) return h("div", { class: "card" }, h("h3", {}, headingOf(data, name)), h("p", { class: "soft" }, "none shown"));
    return h("div", { class: "card" }, h("h3", {}, headingOf(data, name)), chart({
      title: headingOf(data, name), height: 250, width: 600,
      x: { label: state.x === "epoch" ? "epoch" : "seconds of training", range: width, whole: state.x === "epoch", unit: state.x === "secs" ? "secs" : undefined },
      y: { label: headingOf(data, name), range, unit },
      bands: means.map((mean) => mean.band),
      series: [...lines, ...means.map((mean) => mean.series)],
      tips: (point, one) => [h("b", {}, one.name), line("epoch", number(point.line.epoch)), line(headingOf(data, name), number(point.y, unit))],
    }));
  };
  const bar = h("div", { class: "bar" },
    timed && select("over", [["epoch", "epochs"], ["secs", "seconds"]], state.x, (x) => ((state.x = x), draw())),
    check("outliers too", state.all, (all) => ((state.all = all), draw())),
    groups.length > 1 && groups.map((group, i) => key(group, color(i), state.off, draw)));
  draw();
  return section("curves", "Curves", bar, panels);
}

/** Mean and deviation of runs of one model where there are several, at the epochs that all have. */
function meanOf(name, lines, ink) {
  if (lines.length < 2) return [];
  const points = lines[0].points.map(({ x, line }) => {
    const values = lines.map((one) => one.points.find((p) => p.x === x)?.y);
    if (values.some((value) => value === undefined)) return null;
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const deviation = Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (values.length - 1));
    return { x, y: mean, low: mean - deviation, high: mean + deviation, line };
  }).filter(Boolean);
  const series = { name: `${name}, mean of ${lines.length} seeds`, color: ink, kind: "line", points };
  return [{ series, band: { color: ink, points } }];
}

function key(name, ink, off, change) {
  const button = h("button", { class: "key", style: `--key:${ink}`, "aria-pressed": String(!off.has(name)), click: () => {
    if (!off.delete(name)) off.add(name);
    button.setAttribute("aria-pressed", String(!off.has(name)));
    change();
  } }, name);
  return button;
}

/** All trial logs with a name each, trials with the log that they are of. */
function logsOf(data) {
  const several = data.runs.filter((run) => run.parts.length).length > 1;
  return data.runs.flatMap((run) => run.parts.map((part) => {
    const label = `${several ? run.name + ": " : ""}${part.name} (${part.strategy})`;
    const log = { ...part, label, run };
    log.trials = part.trials.map((trial) => ({ ...trial, log }));
    return log;
  }));
}

function isLess(log, metric) {
  const goal = log.objectives.find((objective) => objective.metric === metric)?.goal;
  return goal ? goal === "minimize" : /(params|macs|flops|latency|secs|millis|loss)/.test(metric);
}

function better(log, a, b) {
  return isLess(log, log.objectives[0].metric) ? a < b : a > b;
}

function aboutTrial(data, trial, withDrawing) {
  const drawing = withDrawing && trial.drawing !== null && trial.log.drawings[trial.drawing];
  return [
    h("b", {}, `trial ${trial.id}`), trial.log.run && h("div", { class: "soft" }, trial.log.label),
    trial.failed && line("failed", trial.failed),
    Object.entries(trial.metrics).map(([name, value]) => line(name, number(value, unitOf(data, name)))),
    trial.epochs !== null && line("epochs", number(trial.epochs)),
    trial.parent !== null && line("goes on from", `trial ${trial.parent}`),
    trial.train_secs !== null && line("training", duration(trial.train_secs)),
    !trial.feasible && !trial.failed && line("constraints", "not met"),
    h("div", { class: "soft" }, trial.notation),
    drawing && picture(drawing, trial.notation),
  ].flat();
}

/** Trials: two metrics of all, the best so far, choices, a table, and the trial that was clicked. */
function trials(data) {
  const logs = logsOf(data).filter((log) => log.trials.length);
  if (!logs.length) return null;
  const chosen = h("div", { class: "card", id: "trial" }, h("p", { class: "soft" }, "Click a trial to see all of it here."));
  const pick = (trial) => {
    const { log } = trial;
    const drawing = trial.drawing !== null && log.drawings[trial.drawing];
    const decisions = log.decisions.map((decision, i) => [decision.name, decision.choices[trial.arch[i]] ?? String(trial.arch[i])]);
    const main = data.metrics[0];
    chosen.replaceChildren(
      h("h3", {}, `Trial ${trial.id} `, h("span", { class: "soft" }, log.label)),
      h("div", { class: "facts" }, Object.entries(trial.metrics).map(([name, value]) =>
        h("div", {}, h("span", {}, name), h("b", {}, number(value, unitOf(data, name)))))),
      trial.failed ? h("p", { class: "note" }, trial.failed) : "",
      h("code", { class: "notation" }, `${trial.notation}\n${trial.arch.join("-")}`),
      drawing ? picture(drawing, trial.notation) : "",
      trial.curve.length > 1 ? chart({
        title: "learning curve", height: 200, width: 600,
        x: { label: "epoch", range: domain(trial.curve.map((p) => p[0])), whole: true },
        y: { label: main[1], range: domain(trial.curve.map((p) => p[1])), unit: "fraction" },
        series: [{ name: main[1], color: color(0), kind: "line", points: trial.curve.map(([x, y]) => ({ x, y })) }],
        tips: (p) => [line("epoch", number(p.x)), line(main[1], number(p.y, "fraction"))],
      }) : "",
      log.decisions.length ? h("details", {}, h("summary", {}, "choices"), h("dl", {}, decisions.map(([name, choice]) => [h("dt", {}, name), h("dd", {}, choice)]))) : "");
  };
  const searches = logs.filter((log) => log.truth === null && log.name !== "predictor");
  const main = searches.length ? searches : logs;
  const best = main[0].trials.filter((t) => t.feasible).reduce((a, b) => (a && !better(b.log, b.value, a.value) ? a : b), null);
  if (best) pick(best);
  return section("trials", "Trials",
    h("div", { class: "grid2" }, scatter(data, logs, main, pick), anytime(data, main, pick)),
    h("p"), chosen,
    perLog(data, logs, pick));
}

/** Two metrics of all trials, with the front. */
function scatter(data, logs, main, pick) {
  const metrics = [...new Set(logs.flatMap((log) => log.metrics))];
  const [objectives, first] = [main[0].objectives, main[0].objectives[0].metric];
  const other = objectives[1]?.metric || metrics.find((name) => /macs$/.test(name)) || metrics.find((name) => /params$/.test(name));
  const state = { y: first, x: other && other !== first ? other : "trial", log: false, all: false, off: new Set(logs.filter((log) => !main.includes(log)).map((log) => log.label)) };
  const place = h("div");
  const value = (trial, name) => (name === "trial" ? trial.id : trial.metrics[name]);
  const draw = () => {
    const shown = logs.filter((log) => !state.off.has(log.label));
    const points = (log) => log.trials.map((trial) => ({ x: value(trial, state.x), y: value(trial, state.y), trial, hollow: !trial.feasible, size: trial.front ? 4.5 : 3.2 }))
      .filter((p) => Number.isFinite(p.x) && Number.isFinite(p.y));
    const series = shown.map((log) => ({ name: log.label, color: color(logs.indexOf(log)), kind: "dots", points: points(log) }));
    const all = series.flatMap((one) => one.points);
    const side = (name) => (isLess(main[0], name) ? "low" : "high");
    const axis = (name, values, log) => domain(values, { all: state.all || name === "trial", keep: side(name), log });
    const [x, y] = [axis(state.x, all.map((p) => p.x), state.log), axis(state.y, all.map((p) => p.y))];
    if (!x || !y) return place.replaceChildren(h("p", { class: "soft" }, "No trial has both."));
    const fronts = state.x === "trial" ? [] : shown.map((log) => frontOf(log, points(log).filter((p) => p.trial.feasible), state)).filter((one) => one.points.length > 1);
    fronts.forEach((one) => (one.color = color(logs.indexOf(one.log))));
    const far = all.filter((p) => p.x < x[0] || p.x > x[1] || p.y < y[0] || p.y > y[1]).length;
    const unit = (name) => (name === "trial" ? undefined : unitOf(data, name));
    place.replaceChildren(chart({
      title: `${state.y} over ${state.x}`, height: 400,
      x: { label: state.x, range: x, log: state.log, unit: unit(state.x), whole: state.x === "trial" }, y: { label: state.y, range: y, unit: unit(state.y) },
      series: [...fronts, ...series],
      tips: (p) => aboutTrial(data, p.trial, true), click: (p) => pick(p.trial),
    }), h("p", { class: "soft" }, far ? `${far} far outside, drawn as triangles at the edge. ` : "", "Hollow: constraints not met. Line: nothing else is better in both."));
  };
  draw();
  const names = metrics.map((name) => [name, name]);
  return h("div", { class: "card" }, h("h3", {}, "Front"), h("div", { class: "bar" },
    select("", names, state.y, (y) => ((state.y = y), draw())),
    select("over", [["trial", "trial"], ...names], state.x, (x) => ((state.x = x), draw())),
    check("log", state.log, (log) => ((state.log = log), draw())),
    check("outliers too", state.all, (all) => ((state.all = all), draw())),
    logs.length > 1 && logs.map((log, i) => key(log.label, color(i), state.off, draw))), place);
}

/** The points of a log that no other is better than in both metrics, from left to right. */
function frontOf(log, points, { x, y }) {
  const [sx, sy] = [isLess(log, x) ? 1 : -1, isLess(log, y) ? 1 : -1];
  const sorted = [...points].sort((a, b) => sx * (a.x - b.x) || sy * (a.y - b.y));
  const front = [];
  for (const p of sorted) if (!front.length || sy * p.y < sy * front[front.length - 1].y) front.push(p);
  return { name: "front", kind: "line", dash: "5 4", hover: false, points: front.map(({ x, y }) => ({ x, y, size: 0.1 })), log };
}

/** The best so far over what it has cost. */
function anytime(data, logs, pick) {
  const costs = { trials: (_, i) => i + 1, epochs: (t) => t.epochs, "seconds of training": (t) => t.train_secs, "seconds of the search": (t) => t.secs };
  const sums = ["epochs", "seconds of training"];
  const has = (name) => logs.every((log) => log.trials.every((trial, i) => trial.failed || Number.isFinite(costs[name](trial, i))));
  const known = Object.keys(costs).filter(has);
  const state = { x: "trials", off: new Set() };
  const place = h("div");
  const draw = () => {
    const series = logs.filter((log) => !state.off.has(log.label)).map((log) => {
      let [cost, best, points] = [0, null, []];
      log.trials.forEach((trial, i) => {
        const own = costs[state.x](trial, i) ?? 0;
        cost = sums.includes(state.x) ? cost + own : Math.max(cost, own);
        if (trial.feasible && (best === null || better(log, trial.value, best.value))) best = trial;
        if (best) points.push({ x: cost, y: best.value, trial: best });
      });
      return { name: log.label, color: color(logs.indexOf(log)), kind: "step", points };
    });
    const all = series.flatMap((one) => one.points);
    const [x, y] = [domain(all.map((p) => p.x), { pad: 0.02 }), domain(all.map((p) => p.y), { all: false, keep: isLess(logs[0], logs[0].objectives[0].metric) ? "low" : "high" })];
    if (!x || !y) return place.replaceChildren(h("p", { class: "soft" }, "No trial meets the constraints so far."));
    const metric = logs[0].objectives[0].metric;
    place.replaceChildren(chart({
      title: "best so far", height: 400,
      x: { label: state.x, range: x, whole: !state.x.startsWith("seconds"), unit: state.x.startsWith("seconds") ? "secs" : undefined },
      y: { label: `best ${metric} so far`, range: y, unit: unitOf(data, metric) }, series,
      tips: (p, one) => [h("div", {}, `${one.name}, after ${number(p.x, state.x.startsWith("seconds") ? "secs" : undefined)} ${state.x}`), ...aboutTrial(data, p.trial, true)],
      click: (p) => pick(p.trial),
    }));
  };
  draw();
  return h("div", { class: "card" }, h("h3", {}, "Best so far"), h("div", { class: "bar" },
    known.length > 1 && select("over", known.map((name) => [name, name]), state.x, (x) => ((state.x = x), draw())),
    logs.length > 1 && logs.map((log, i) => key(log.label, color(i), state.off, draw))), place);
}

/** Choices and table of one log. */
function perLog(data, logs, pick) {
  const place = h("div");
  const show = (i) => place.replaceChildren(parallel(data, logs[i], pick), trialTable(data, logs[i], pick));
  show(0);
  const options = logs.map((log, i) => [String(i), log.label]);
  return [logs.length > 1 && h("div", { class: "bar" }, select("Choices and table of", options, "0", (i) => show(Number(i)))), place];
}

/** Every trial as a way through its choices; the best are strong. */
function parallel(data, log, pick) {
  const MOST = 1200;
  const objective = log.objectives[0].metric;
  const ranked = log.trials.filter((trial) => trial.value !== null).sort((a, b) => (better(log, a.value, b.value) ? -1 : 1));
  const step = Math.max(1, Math.ceil(ranked.length / MOST));
  const drawn = ranked.filter((_, i) => i < MOST / 4 || i % step === 0);
  const axes = log.decisions.map((decision, i) => ({ ...decision, i })).filter(({ i }) => new Set(drawn.map((t) => t.arch[i])).size > 1);
  if (!axes.length || drawn.length < 2) return null;
  const [left, top, high, low] = [70, 24, 330, 150];
  const gap = Math.max(30, Math.min(150, 1050 / axes.length));
  const width = left + gap * axes.length + 90;
  const range = domain(drawn.map((t) => t.value), { all: false });
  const y = (trial, axis) => top + high * (1 - (axis.choices.length > 1 ? trial.arch[axis.i] / (axis.choices.length - 1) : 0.5));
  const yValue = (v) => top + high * (1 - Math.max(0, Math.min(1, (v - range[0]) / (range[1] - range[0]))));
  const svg = s("svg", { class: "chart clickable", width, style: `width:${width}px`, viewBox: `0 0 ${width} ${top + high + low}`, role: "img", "aria-label": "choices of all trials" });
  const ways = drawn.map((trial, rank) => {
    // Apart by a little, so that equal choices do not hide each other.
    const shift = ((rank * 7919) % 101) / 101 - 0.5;
    const points = axes.map((axis, i) => `${left + gap * i},${(y(trial, axis) + 9 * shift).toFixed(1)}`);
    points.push(`${left + gap * axes.length},${yValue(trial.value).toFixed(1)}`);
    const part = rank / Math.max(1, drawn.length - 1);
    const ink = `color-mix(in oklab, var(--c0) ${Math.round(100 * part)}%, var(--c1))`;
    const way = s("polyline", { class: "way", points: points.join(" "), style: `stroke:${ink}` });
    way.addEventListener("pointermove", (event) => (light(way), tip.show(event, aboutTrial(data, trial, true))));
    way.addEventListener("click", () => pick(trial));
    return way;
  });
  let share = 0.1;
  const light = (one) => ways.forEach((way, rank) => {
    const isTop = one ? way === one : rank < Math.max(1, share * ways.length);
    way.classList.toggle("top", isTop);
    way.classList.toggle("dim", !isTop && (one !== null || share < 1));
  });
  svg.append(...[...ways].reverse());
  [...axes.map((axis) => axis.name), objective].forEach((name, i) => {
    const x = left + gap * i;
    svg.append(s("line", { class: "axis", x1: x, x2: x, y1: top - 6, y2: top + high + 6 }));
    svg.append(s("text", { class: "label", x, y: top + high + 20, transform: `rotate(55 ${x} ${top + high + 20})` }, name));
    if (gap < 55 && i < axes.length) return;
    const choices = i < axes.length ? axes[i].choices.map((text, j) => [text, y({ arch: { [axes[i].i]: j } }, axes[i])]) : ticks(...range, 6).map((v) => [number(v, unitOf(data, objective)), yValue(v)]);
    if (choices.length > 16) return;
    for (const [text, at] of choices) svg.append(s("text", { class: "tick", x: x + 5, y: at - 3 }, text.length > 16 ? text.slice(0, 15) + "…" : text));
  });
  svg.addEventListener("pointerleave", () => (light(null), tip.hide()));
  light(null);
  const slider = h("input", { type: "range", min: 1, max: 100, value: 10, input: (event) => {
    share = event.target.value / 100;
    words.textContent = `the best ${event.target.value} %`;
    light(null);
  } });
  const words = h("span", {}, "the best 10 %");
  return h("div", { class: "card" }, h("h3", {}, "Choices"), h("div", { class: "bar" }, h("label", {}, slider, " ", words),
    h("span", { class: "soft" }, `${log.decisions.length - axes.length} of ${log.decisions.length} decisions are the same in all and left out; orange is better`)), h("div", { class: "scroll" }, svg));
}

function trialTable(data, log, pick) {
  const any = (name) => log.trials.some((trial) => trial[name] !== null);
  const extra = [["epochs"], ["parent"], ["train_secs", "secs", "training"], ["secs", "secs", "ended at"]].filter(([name]) => any(name));
  const metrics = [...new Set([...log.objectives.map((objective) => objective.metric), ...log.metrics])];
  const columns = [{ name: "trial" }, ...metrics.map((name) => ({ name, unit: unitOf(data, name) })),
    ...extra.map(([name, unit, text]) => ({ name: text || name, unit })), { name: "architecture", left: true, wide: true }, { name: "", left: true }];
  const row = (trial) => ({
    item: trial, class: trial.front ? "best" : trial.feasible ? null : "off",
    cells: [trial.id, ...metrics.map((name) => trial.metrics[name]), ...extra.map(([name]) => trial[name]), trial.notation,
      trial.failed || (trial.front ? "front" : trial.feasible ? "" : "constraints not met")],
  });
  const place = h("div");
  const draw = (text) => {
    const shown = log.trials.filter((trial) => !text || `${trial.id} ${trial.notation} ${trial.arch.join("-")} ${trial.failed || ""}`.toLowerCase().includes(text));
    place.replaceChildren(table(columns, shown.map(row), { click: pick, sort: [1, !isLess(log, log.objectives[0].metric)] }));
  };
  draw("");
  const search = h("input", { type: "search", placeholder: "only trials with …", "aria-label": "filter", input: (event) => draw(event.target.value.toLowerCase()) });
  return h("div", { class: "card", id: "table" }, h("h3", {}, `Trials of ${log.label}`), h("div", { class: "bar" }, search), place);
}

/** Scores by class of all runs that have them, and confusion. */
function classes(data) {
  const scored = data.runs.filter((run) => run.classes && run.classes.rows.length);
  const confused = data.runs.filter((run) => run.confusion);
  const measured = data.runs.filter((run) => run.precision_recall);
  if (!scored.length && !confused.length && !measured.length) return null;
  const names = [...new Set(scored.flatMap((run) => run.classes.rows.map(([name]) => name)))];
  const columns = scored.flatMap((run) => run.classes.scores.map((score, i) => ({ run, i, name: scored.length > 1 ? `${run.name}: ${score}` : score })));
  const meter = (value) => ({ value, node: value === null || value === undefined ? "–" : [number(value, "fraction"), h("span", { class: "meter" }, h("i", { style: `width:${100 * value}%` }))] });
  const rows = names.map((name) => ({ cells: [name, ...columns.map(({ run, i }) => meter(run.classes.rows.find(([of]) => of === name)?.[1][i]))] }));
  const sheet = scored.length && h("div", { class: "card" }, h("h3", {}, "Scores by class"), table([{ name: "class", left: true }, ...columns.map(({ name }) => ({ name }))], rows));
  return section("classes", "Classes", sheet, confused.map((run) => confusion(run, confused.length > 1)),
    measured.map((run) => precisionRecall(run, measured.length > 1)));
}

/** Precision over recall; of many classes all in one colour, each by its name under the pointer. */
function precisionRecall(run, withName) {
  const { classes: names, recalls, precisions } = run.precision_recall;
  const some = names.length <= COLORS;
  const off = new Set();
  const place = h("div", { style: "max-width:640px" });
  const draw = () => {
    const series = names.map((name, i) => ({ name, color: color(some ? i : 0), kind: "line", points: recalls.map((x, j) => ({ x, y: precisions[i][j] })) }));
    place.replaceChildren(chart({
      title: "precision over recall", x: { label: "recall", range: [0, 1] }, y: { label: "precision", range: [0, 1.02] },
      series: series.filter(({ name }) => !off.has(name)),
      tips: (p, one) => [h("div", {}, one.name), line("recall", number(p.x, "fraction")), line("precision", number(p.y, "fraction"))],
    }));
  };
  draw();
  return h("div", { class: "card" }, h("h3", {}, `Precision over recall at overlap 0.5${withName ? ` of ${run.name}` : ""}`),
    some && h("div", { class: "bar" }, names.map((name, i) => key(name, color(i), off, draw))), place);
}

function confusion(run, withName) {
  const { classes: names, counts } = run.confusion;
  const side = Math.max(2, Math.min(34, 700 / names.length));
  const named = side >= 12;
  const room = named ? 30 + 6.6 * Math.min(24, Math.max(...names.map((name) => name.length))) : 30;
  const full = room + side * names.length;
  const svg = s("svg", { class: "chart", viewBox: `0 0 ${full + 8} ${full + 8}`, style: `max-width:${full + 8}px`, role: "img", "aria-label": "confusion matrix" });
  const text = (attributes, content) => s("text", attributes, content);
  svg.append(text({ class: "label", x: (room + full) / 2, y: 14, "text-anchor": "middle" }, "predicted"));
  svg.append(text({ class: "label", x: 14, y: (room + full) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(room + full) / 2})` }, "true"));
  const short = (name) => (name.length > 24 ? name.slice(0, 23) + "…" : name);
  names.forEach((name, i) => {
    if (!named) return;
    const at = room + side * (i + 0.5) + 4;
    svg.append(text({ x: room - 6, y: at, "text-anchor": "end" }, short(name)));
    svg.append(text({ x: at, y: room - 6, transform: `rotate(-90 ${at} ${room - 6})` }, short(name)));
  });
  counts.forEach((row, truth) => {
    const total = row.reduce((a, b) => a + b, 0) || 1;
    row.forEach((count, predicted) => {
      const share = count / total;
      const [x, y] = [room + side * predicted, room + side * truth];
      const strength = Math.round(100 * Math.sqrt(share));
      const cell = s("g", { class: "cell" }, s("rect", { x, y, width: side, height: side, style: `fill:color-mix(in oklab, var(--c0) ${strength}%, var(--card));stroke:var(--rule);stroke-width:.5` }));
      if (side >= 22 && count) cell.append(text({ x: x + side / 2, y: y + side / 2 + 4, "text-anchor": "middle", style: share > 0.3 ? "fill:var(--card)" : "fill:var(--ink)" }, number(count, "count").replace(" ", "")));
      cell.addEventListener("pointermove", (event) => tip.show(event, [line("true", names[truth]), line("predicted", names[predicted]), line("samples", number(count)), line("of the class", number(share, "fraction"))]));
      svg.append(cell);
    });
  });
  svg.addEventListener("pointerleave", tip.hide);
  return h("div", { class: "card" }, h("h3", {}, withName ? `Confusion of ${run.name}` : "Confusion"), svg);
}

function pictures(data) {
  const drawn = data.runs.filter((run) => run.pictures.length);
  if (!drawn.length) return null;
  return section("pictures", "Pictures", drawn.map((run) => h("div", { class: "card" }, h("h3", {}, run.name),
    h("div", { class: "pictures" }, run.pictures.map(({ name, data: source }) => h("figure", {}, h("img", { src: source, alt: name }), h("figcaption", {}, name)))))));
}

/** What the experiments differ in, all of each, and how it was run. */
function configs(data) {
  const named = data.runs.filter((run) => !run.parent);
  const compared = named.length > 1 ? named : data.runs.filter((run) => run.parent);
  const keys = [...new Set(compared.flatMap((run) => Object.keys(run.config)))].sort();
  const differ = keys.filter((name) => new Set(compared.map((run) => run.config[name])).size > 1);
  const difference = compared.length > 1 && h("div", { class: "card" }, h("h3", {}, "Differences"), differ.length
    ? table([{ name: "key", left: true }, ...compared.map((run) => ({ name: run.name, left: true }))], differ.map((name) => ({ cells: [name, ...compared.map((run) => run.config[name])] })), { shown: 40 })
    : h("p", {}, "The experiments are equal."));
  const one = (run) => {
    const { meta } = run;
    const started = meta.started_unix_secs && new Date(1000 * meta.started_unix_secs).toISOString().replace("T", " ").slice(0, 19) + " UTC";
    const pairs = [["command", meta.command && meta.command.join(" ")], ["folder", run.path], ["version", meta.version], ["commit", meta.commit], ["device", meta.device], ["threads", meta.threads], ["mixed precision", meta.amp && "yes"], ["started", started]];
    return h("div", { class: "card" }, h("h3", {}, run.name),
      h("dl", {}, pairs.filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))])),
      h("details", {}, h("summary", {}, "resolved experiment"), h("dl", {}, Object.entries(run.config).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]))));
  };
  return section("experiments", "Experiments", difference, named.map(one));
}

function show(data) {
  const sections = [results(data), curves(data), trials(data), classes(data), pictures(data), configs(data)].filter(Boolean);
  const theme = h("button", { click: () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark") }, "light / dark");
  document.getElementById("page").replaceChildren(
    h("header", {}, h("h1", {}, document.title), h("span", { class: "soft" }, `by ${data.made_by}`), theme),
    h("nav", {}, sections.map((part) => h("a", { href: `#${part.id}` }, part.querySelector("h2").textContent))),
    ...sections);
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
}

document.addEventListener("DOMContentLoaded", () => {
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  show(JSON.parse(document.getElementById("data").textContent));
});
