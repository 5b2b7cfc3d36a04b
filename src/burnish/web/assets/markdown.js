// Markdown becomes elements, never markup: every text is a text node, so nothing that a model writes can be script or style.
// Understood: paragraphs, headings, lists, quotes, fenced and inline code, emphasis, links to http(s), tables, rules.
// Images are shown as links: loading one would tell its server what was said.

const INLINE = /(`+)([\s\S]+?)\1(?!`)|\*\*([^\s*](?:[\s\S]*?[^\s*])?)\*\*|__([^\s_](?:[\s\S]*?[^\s_])?)__|(?<![\w*])\*([^\s*](?:[^*\n]*[^\s*])?)\*(?!\w)|(?<![\w_])_([^\s_](?:[^_\n]*[^\s_])?)_(?!\w)|~~([^~\n]+)~~|!?\[([^\]\n]*)\]\(\s*<?([^\s)>]+)>?(?:\s+"[^"\n]*")?\s*\)|(https?:\/\/[^\s<>"')\]]+)|\\([\\`*_{}[\]()#+.!~|>-])/;
const DEEPEST = 8;

const OWN_DIRECTION = new Set(["p", "h3", "h4", "ul", "ol", "th", "td"]);

function element(name, ...children) {
  const made = document.createElement(name);
  if (OWN_DIRECTION.has(name)) made.dir = "auto"; // Arabic and Hebrew begin at the right
  made.append(...children);
  return made;
}

function link(address, children) {
  let url;
  try {
    url = new URL(address);
  } catch {
    url = null;
  }
  if (!url || !["https:", "http:"].includes(url.protocol) || url.username || url.password) return element("span", ...children);
  const made = element("a", ...children);
  made.href = url.href;
  made.target = "_blank";
  made.rel = "noopener noreferrer nofollow";
  made.title = url.href;
  return made;
}

export function inline(text, depth = 0) {
  const found = [];
  let rest = text;
  while (rest) {
    const at = depth < DEEPEST ? INLINE.exec(rest) : null;
    if (!at) {
      found.push(document.createTextNode(rest));
      break;
    }
    if (at.index) found.push(document.createTextNode(rest.slice(0, at.index)));
    const [whole, ticks, code, strong, strong2, em, em2, gone, label, address, bare, escaped] = at;
    if (ticks) found.push(element("code", code.trim() || code));
    else if (strong ?? strong2) found.push(element("strong", ...inline(strong ?? strong2, depth + 1)));
    else if (em ?? em2) found.push(element("em", ...inline(em ?? em2, depth + 1)));
    else if (gone) found.push(element("s", ...inline(gone, depth + 1)));
    else if (address) found.push(link(address, inline(label || address, depth + 1)));
    else if (bare) found.push(link(bare, [document.createTextNode(bare)]));
    else found.push(document.createTextNode(escaped));
    rest = rest.slice(at.index + whole.length);
  }
  return found;
}

// No expression here may try a line again from each of its characters: a model may write a line of thousands of spaces.
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s(.*)$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])\s*(?:\1\s*){2,}$/;

const isRow = (line) => line.trim().indexOf("|", 1) > 0;
const isDivider = (line) => cells(line).every((cell) => /^:?-+:?$/.test(cell));

// Return the elements of a text. `onCopy` is called with the button and the code when a block of code is copied.
export function markdown(text, onCopy, depth = 0) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const found = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    if (!line.trim()) at += 1;
    else if (fence) at = codeBlock(lines, at, fence, found, onCopy);
    else if (HEADING.test(line)) {
      const [, marks, title] = HEADING.exec(line);
      found.push(element(marks.length < 3 ? "h3" : "h4", ...inline(withoutMarks(title.trim()))));
      at += 1;
    } else if (RULE.test(line)) {
      found.push(element("hr"));
      at += 1;
    } else if (/^ {0,3}>/.test(line) && depth < DEEPEST) {
      const quoted = [];
      while (at < lines.length && /^ {0,3}>/.test(lines[at])) quoted.push(lines[at++].replace(/^ {0,3}> ?/, ""));
      found.push(element("blockquote", ...markdown(quoted.join("\n"), onCopy, depth + 1)));
    } else if (ITEM.test(line) && depth < DEEPEST) at = list(lines, at, found, onCopy, depth);
    else if (at + 1 < lines.length && isRow(line) && isDivider(lines[at + 1])) at = table(lines, at, found);
    else at = paragraph(lines, at, found);
  }
  return found;
}

// "Title ##" is "Title": marks at the end of a heading close it.
function withoutMarks(title) {
  let end = title.length;
  while (title[end - 1] === "#") end -= 1;
  return end === 0 || /\s/.test(title[end - 1]) ? title.slice(0, end).trimEnd() : title;
}

// Whether a line ends a block of code that `fence` began: the same mark, as often or more, and nothing else.
function closes(line, fence) {
  const text = line.trim();
  return text.length >= fence.length && text === fence[0].repeat(text.length);
}

function codeBlock(lines, at, fence, found, onCopy) {
  const code = [];
  at += 1;
  while (at < lines.length && !closes(lines[at], fence[1])) code.push(lines[at++]);
  const text = code.join("\n");
  const button = element("button", "Copy");
  button.type = "button";
  button.setAttribute("aria-label", "Copy this code");
  button.addEventListener("click", () => onCopy(button, text));
  const inner = element("code", text);
  const language = fence[2].trim().split(/\s/)[0];
  if (language) inner.dataset.language = language;
  const block = element("pre", inner, button);
  block.tabIndex = 0;
  found.push(block);
  return at + 1;
}

function list(lines, at, found, onCopy, depth) {
  const first = ITEM.exec(lines[at]);
  const ordered = /\d/.test(first[2]);
  const made = element(ordered ? "ol" : "ul");
  if (ordered) made.start = parseInt(first[2], 10);
  const indent = first[1].length;
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (!item || item[1].length > indent + 1 || /\d/.test(item[2]) !== ordered) break;
    const body = [item[3]];
    at += 1;
    while (at < lines.length && (/^\s{2,}\S/.test(lines[at]) ? !(ITEM.exec(lines[at]) && ITEM.exec(lines[at])[1].length <= indent) : !lines[at].trim() && /^\s{2,}\S/.test(lines[at + 1] ?? ""))) {
      body.push(lines[at++].slice(Math.min(indent + 2, lines[at - 1].length - lines[at - 1].trimStart().length)));
    }
    made.append(element("li", ...(body.length === 1 ? inline(body[0]) : markdown(body.join("\n"), onCopy, depth + 1))));
  }
  found.push(made);
  return at;
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim());
}

function table(lines, at, found) {
  const made = element("table", element("thead", element("tr", ...cells(lines[at]).map((cell) => element("th", ...inline(cell))))));
  const body = element("tbody");
  at += 2;
  while (at < lines.length && isRow(lines[at])) {
    body.append(element("tr", ...cells(lines[at]).map((cell) => element("td", ...inline(cell)))));
    at += 1;
  }
  made.append(body);
  const scroll = element("div", made);
  scroll.className = "table";
  found.push(scroll);
  return at;
}

function paragraph(lines, at, found) {
  const text = [lines[at++]];
  while (at < lines.length && lines[at].trim() && ![FENCE, HEADING, ITEM, RULE].some((start) => start.test(lines[at])) && !/^ {0,3}>/.test(lines[at])) text.push(lines[at++]);
  const made = element("p");
  text.forEach((line, index) => made.append(...(index ? [element("br")] : []), ...inline(line.trimEnd())));
  found.push(made);
  return at;
}
