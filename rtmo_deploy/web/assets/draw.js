// Skeletons on a canvas, in the colours and widths of rtmo_deploy/runtime/draw.py.

const SIDES = { left: "#56B4E9", right: "#E69F00", centre: "#FFFFFF" };
const BOX = "#009E73";
const TRACKS = ["#0072B2", "#D55E00", "#CC79A7", "#F0E442", "#009E73", "#E69F00", "#56B4E9"];
const OUTLINE = "#111111";

/** The side of a body that a keypoint's name gives, where a server sends no colours. */
function sideOf(name) {
  const words = (name.match(/[A-Z]+(?![a-z])|[A-Z]?[a-z]+/g) ?? []).map((word) => word.toLowerCase());
  const sides = new Set(words.filter((word) => ["left", "right", "l", "r"].includes(word)).map((word) => word[0]));
  if (sides.size !== 1) return "centre";
  return sides.has("l") ? "left" : "right";
}

function coloursOf(skeleton) {
  const sides = skeleton.keypoints.map(sideOf);
  const edgeSide = ([first, second]) => {
    const both = new Set([sides[first], sides[second]].filter((side) => side !== "centre"));
    return both.size === 1 ? [...both][0] : "centre";
  };
  return {
    keypoints: skeleton.keypoint_colours ?? sides.map((side) => SIDES[side]),
    edges: skeleton.edge_colours ?? skeleton.edges.map((edge) => SIDES[edgeSide(edge)]),
  };
}

const within = (value, least, most) => Math.min(Math.max(value, least), most);

/** Widths for one person, in pixels of the image. */
function widths([left, top, right, bottom], width, height) {
  const person = Math.sqrt(Math.max(0, right - left) * Math.max(0, bottom - top)) || 0;
  const image = Math.sqrt(width * height);
  const line = Math.min(Math.max(0.016 * person, 0.0028 * image, 1), 0.009 * image + 1);
  const text = Math.min(Math.max(0.045 * person, 0.018 * image, 8), 0.028 * image + 4);
  return { line, radius: 0.95 * line, outline: 0.3 * line, box: Math.max(1, Math.round(0.5 * line)), text };
}

function isDark(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue <= 140;
}

function drawBox(context, [left, top, right, bottom], colour, style) {
  const half = (style.box % 2) / 2;
  for (const [width, shade] of [[style.box + Math.max(style.outline, 1), OUTLINE], [style.box, colour]]) {
    context.lineWidth = width;
    context.strokeStyle = shade;
    const [x, y] = [Math.round(left) + half, Math.round(top) + half];
    context.strokeRect(x, y, Math.round(right) + half - x, Math.round(bottom) + half - y);
  }
}

function drawSkeleton(context, person, skeleton, colours, keypointThr, style) {
  const seen = person.keypoints.map(([x, y, score]) => score >= keypointThr && Number.isFinite(x) && Number.isFinite(y));
  const edges = skeleton.edges.map((edge, index) => [edge, colours.edges[index]]);
  const shown = edges.filter(([[first, second]]) => seen[first] && seen[second]);
  for (const outlined of [true, false]) {
    context.lineWidth = style.line + (outlined ? 2 * style.outline : 0);
    for (const [[first, second], colour] of shown) {
      context.strokeStyle = outlined ? OUTLINE : colour;
      context.beginPath();
      context.moveTo(person.keypoints[first][0], person.keypoints[first][1]);
      context.lineTo(person.keypoints[second][0], person.keypoints[second][1]);
      context.stroke();
    }
  }
  for (const outlined of [true, false]) {
    person.keypoints.forEach(([x, y], index) => {
      if (!seen[index]) return;
      context.fillStyle = outlined ? OUTLINE : colours.keypoints[index];
      context.beginPath();
      context.arc(x, y, style.radius + (outlined ? style.outline : 0), 0, 2 * Math.PI);
      context.fill();
    });
  }
}

function drawLabel(context, [left, top], text, colour, style, width) {
  context.font = `600 ${style.text * 1.4}px system-ui, sans-serif`;
  const padding = style.text * 0.4;
  const size = [context.measureText(text).width + 2 * padding, style.text + 2 * padding];
  const x = Math.min(Math.max(0, left - style.box / 2 - style.outline / 2), Math.max(0, width - size[0]));
  const y = Math.max(0, top - size[1]);
  context.fillStyle = colour;
  context.fillRect(x, y, ...size);
  context.fillStyle = isDark(colour) ? "#FFFFFF" : OUTLINE;
  context.fillText(text, x + padding, y + padding + style.text);
}

/** The part of a box inside the image; null if there is none. */
function visible(box, width, height) {
  if (!box.every(Number.isFinite)) return null;
  const sides = box.map((side, index) => within(side, 0, (index % 2 ? height : width) - 1));
  return sides[2] > sides[0] && sides[3] > sides[1] ? sides : null;
}

/** Draws people on a canvas of the image's size, the best one on top. */
export function drawPeople(context, { width, height, people }, skeleton, { keypointThr, boxes, labels }) {
  const colours = coloursOf(skeleton);
  const drawn = people.map((person) => {
    const id = person.track_id ?? -1;
    return {
      person,
      box: visible(person.box, width, height),
      style: widths(person.box, width, height),
      colour: id < 0 ? BOX : TRACKS[id % TRACKS.length],
      text: `${id < 0 ? "" : `#${id} `}${person.score.toFixed(2)}`,
    };
  });
  drawn.reverse();
  context.lineCap = "butt";
  context.lineJoin = "miter";
  if (boxes) for (const { box, colour, style } of drawn) if (box) drawBox(context, box, colour, style);
  for (const { person, style } of drawn) drawSkeleton(context, person, skeleton, colours, keypointThr, style);
  if (labels) for (const { box, text, colour, style } of drawn) if (box) drawLabel(context, box, text, colour, style, width);
}
