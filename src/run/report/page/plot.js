// A picture's trajectories on a canvas: PSNR curves over strips of probes, segments beside them.
const roles = { t: "true", i: "input", r: "recovered", o: "other" };
function plotOf(picture) {
  const canvas = element("canvas", "plot");
  const said = picture.trajectories.paths.map(p => [
    p.seed === undefined ? "consensus" : `seed ${p.seed}`, p.probes,
    p.crossing == null ? null : `crossing at ${p.crossing}`,
    p.alpha == null ? null : `α ${digits(p.alpha, 3)}`,
  ].filter(part => part != null).join(" "));
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Trajectories: ${said.join("; ")}`);
  return canvas;
}
function colors(canvas) {
  const probe = element("span");
  canvas.parentNode.append(probe);
  const found = {};
  for (const name of ["ink", "soft", "line", "card", ...Object.values(roles)]) {
    probe.style.color = `var(--${name})`;
    found[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return found;
}
function drawTrajectories(canvas, picture, large) {
  const { every, places, paths } = picture.trajectories;
  const { width, height } = canvas.getBoundingClientRect();
  if (!width || !paths.length) return;
  const scale = devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d"), color = colors(canvas), size = large ? 12 : 10;
  pen.scale(scale, scale);
  pen.font = `${size}px system-ui, sans-serif`;
  pen.textBaseline = "middle";

  const gap = large ? 64 : 8, left = large ? 76 : 34, foot = size + 5;
  const right = Math.round(width * (large ? 0.3 : 0.24));
  const wide = width - left - right - gap, edge = width - right;
  const pitch = Math.min(large ? 22 : 11, (height - foot) * 0.5 / paths.length);
  const strips = height - foot - pitch * paths.length, ground = strips - 6;
  const probes = Math.max(...paths.map(p => p.probes.length));
  const x = iteration => left + (iteration / every - 0.5) * wide / probes;

  const all = paths.flatMap(p => p.psnr).map(tenths => tenths / 10);
  const low = Math.floor(Math.min(...all)), high = Math.max(Math.ceil(Math.max(...all)), low + 1);
  const y = value => ground - (value - low) / (high - low) * (ground - size / 2 - 2);
  const write = (text, atX, atY, align, fill) => {
    pen.fillStyle = fill ?? color.soft;
    pen.textAlign = align;
    pen.fillText(text, atX, atY);
  };
  const ticks = large ? [low, (low + high) / 2, high] : [low, high];
  for (const tick of ticks) {
    pen.fillStyle = color.line;
    pen.fillRect(left, Math.round(y(tick)), wide, 1);
    write(digits(tick, tick % 1 ? 1 : 0) + (tick === high ? " dB" : ""), left - 4, y(tick), "right");
  }
  for (const path of paths) {
    const consensus = path.seed === undefined;
    pen.strokeStyle = consensus ? color.ink : color.soft;
    pen.globalAlpha = consensus ? 1 : 0.6;
    pen.lineWidth = consensus ? 1.75 : 1;
    pen.beginPath();
    path.psnr.forEach((tenths, i) => pen.lineTo(x((i + 1) * every), y(tenths / 10)));
    pen.stroke();
  }
  pen.globalAlpha = 1;

  paths.forEach((path, row) => {
    const top = strips + row * pitch, tall = Math.max(pitch - 1.5, 1), middle = top + tall / 2;
    if (large) write(path.seed === undefined ? "consensus" : `seed ${path.seed}`, left - 6, middle, "right");
    cells(path.probes, path.sure, i => [left + i * wide / probes, wide / probes], top, tall);
    const step = right / places.length;
    cells(path.segment.probes, path.segment.sure, i => [edge + i * step, step], top, tall);
    if (path.crossing != null) mark("▲", x(path.crossing), middle, tall);
    if (path.boundary != null) mark("◆", onSegment(path.boundary * 100, places, edge, step), middle, tall);
    else if (path.alpha != null && path.crossing != null) mark("◆", x(path.crossing + path.alpha * every), middle, tall);
  });
  write(`iteration ${every}`, left, height - size / 2, "left");
  write(`${probes * every}`, left + wide, height - size / 2, "right");
  write("input", width, height - size / 2, "right");
  const start = onSegment(0, places, edge, right / places.length);
  write(large ? "reconstruction" : "recon.", start, height - size / 2, large ? "center" : "left");
  if (large) write("PSNR of the reconstructions against the input", left + wide, ground - size, "right");
  if (large) write("segments to the input", edge, ground, "left");

  function cells(letters, sure, place, top, tall) {
    for (let i = 0; i < letters.length; i++) {
      const [start, step] = place(i);
      pen.globalAlpha = 0.35 + 0.65 * sure[i] / 9;
      pen.fillStyle = color[roles[letters[i]]];
      pen.fillRect(start, top, Math.max(step - 0.5, 0.5), tall);
    }
    pen.globalAlpha = 1;
  }
  function mark(sign, atX, atY, tall) {
    pen.font = `${Math.min(Math.max(tall, 9), 14)}px system-ui, sans-serif`;
    pen.lineWidth = 2.5;
    pen.strokeStyle = color.card;
    pen.textAlign = "center";
    pen.strokeText(sign, atX, atY);
    write(sign, atX, atY, "center", color.ink);
    pen.font = `${size}px system-ui, sans-serif`;
  }
}
// Where a place lies on a segment's cells, each of which has its place in its middle; the input itself
// is at the last cell's end.
function onSegment(place, places, edge, step) {
  let i = places.findLastIndex(p => p <= place);
  if (i < 0) return edge;
  const next = places[i + 1], half = next === undefined ? 0.5 : 1;
  const end = next ?? 100;
  return edge + (i + 0.5 + half * (place - places[i]) / Math.max(end - places[i], 1)) * step;
}
