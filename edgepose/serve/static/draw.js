// Poses drawn on a canvas, with the colours and rules of edgepose's own drawings.

/** Persons that are shown: those from a score on, with their place in the result. */
export function shownPersons(result, personScore) {
  return result.persons.map((person, place) => ({ person, place })).filter(({ person }) => person.score >= personScore);
}

/** Size of the canvas in CSS pixels: as large as fits, in the picture's shape. */
export function fit(width, height, room, tallest) {
  const scale = Math.min(room / width, tallest / height);
  return [Math.max(Math.round(width * scale), 1), Math.max(Math.round(height * scale), 1)];
}

/**
 * Draw a picture and its poses.
 * @param canvas its size in device pixels is that of the drawing
 * @param picture ImageBitmap, or null: black
 * @param result as PoseResult.to_dict, or null
 * @param model as /v1/model
 * @param settings personScore, jointScore, boxes, names
 * @returns the number of persons drawn
 */
export function drawScene(canvas, picture, result, model, settings) {
  const context = canvas.getContext("2d");
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (picture) context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  if (!result) return 0;
  const [height, width] = result.image_size;
  // Joint coordinates count pixels' centres as whole numbers.
  const place = ([x, y]) => [((x + 0.5) * canvas.width) / width, ((y + 0.5) * canvas.height) / height];
  const persons = shownPersons(result, settings.personScore);
  const several = result.persons.length > 1 || persons.some(({ person }) => person.track_id !== undefined);
  const colors = model.colors;
  const outline = colors.outline[0];
  const shapes = persons.map(({ person, place: index }) => {
    const points = model.skeleton.joints.map((name) => {
      const joint = person.keypoints[name];
      return joint && joint[0] !== null && joint[2] >= settings.jointScore ? place(joint) : null;
    });
    const seen = points.filter(Boolean);
    const span = (axis) => Math.max(...seen.map((p) => p[axis])) - Math.min(...seen.map((p) => p[axis]));
    const extent = seen.length ? Math.hypot(span(0), span(1)) : 0;
    const line = Math.min(Math.max(extent / 70, 2), Math.max(canvas.width, canvas.height) / 140 + 2);
    const number = person.track_id ?? index;
    return { person, points, extent, line, number, own: several ? colors.persons[number % colors.persons.length] : colors.joints[0] };
  });
  shapes.sort((a, b) => b.extent - a.extent);
  context.lineCap = "round";
  context.lineJoin = "round";
  for (const shape of shapes) {
    if (settings.boxes) drawBox(context, shape, place, several ? shape.own : "#ebebeb");
    drawLimbs(context, shape, model, several, outline);
    drawJoints(context, shape, colors, outline);
  }
  for (const shape of shapes) drawLabel(context, shape, place, settings.names, several);
  return persons.length;
}

function drawBox(context, shape, place, color) {
  const [x1, y1] = place(shape.person.box.slice(0, 2));
  const [x2, y2] = place(shape.person.box.slice(2));
  context.lineWidth = 2;
  context.strokeStyle = color;
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
}

function drawLimbs(context, shape, model, several, outline) {
  const edges = model.skeleton.edges.map(([a, b], edge) => [shape.points[a], shape.points[b], edge]);
  for (const pass of ["outline", "color"]) {
    for (const [from, to, edge] of edges) {
      if (!from || !to) continue;
      context.lineWidth = pass === "outline" ? shape.line + 2.5 : shape.line;
      context.strokeStyle = pass === "outline" ? outline : several ? shape.own : model.colors.limbs[edge];
      context.beginPath();
      context.moveTo(...from);
      context.lineTo(...to);
      context.stroke();
    }
  }
}

function drawJoints(context, shape, colors, outline) {
  const radius = shape.line * 1.15;
  shape.points.forEach((point, joint) => {
    if (!point) return;
    context.beginPath();
    context.arc(...point, radius, 0, 2 * Math.PI);
    context.fillStyle = colors.joints[joint];
    context.fill();
    context.lineWidth = Math.max(radius / 3, 1.6);
    context.strokeStyle = outline;
    context.stroke();
  });
}

function drawLabel(context, shape, place, names, several) {
  const texts = [];
  if (shape.person.track_id !== undefined) texts.push(`${shape.person.track_id}`);
  if (names) texts.push(shape.person.score.toFixed(2));
  if (!texts.length) return;
  const size = Math.max(Math.round(Math.max(context.canvas.width, context.canvas.height) / 60), 12);
  context.font = `600 ${size}px system-ui, sans-serif`;
  const text = texts.join("  ");
  const seen = shape.points.filter(Boolean);
  const top = seen.length ? seen.reduce((a, b) => (b[1] < a[1] ? b : a)) : place(shape.person.box);
  const wide = context.measureText(text).width + size * 0.7;
  const x = Math.min(Math.max(top[0] - wide / 2, 0), context.canvas.width - wide);
  const y = Math.max(top[1] - size * 2.2, 0);
  context.fillStyle = "#1e1e1ed9";
  context.fillRect(x, y, wide, size * 1.4);
  context.fillStyle = several ? shape.own : "#ebebeb";
  context.textBaseline = "middle";
  context.fillText(text, x + size * 0.35, y + size * 0.73);
}
