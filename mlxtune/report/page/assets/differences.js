// How two texts differ, word by word; Chinese, Japanese and Korean characters one by one, since no spaces part their words.

// A character of its own, a word, white space, or any other sign.
const PARTS =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]|[\p{L}\p{M}\p{N}_]+|\s+|[^\p{L}\p{M}\p{N}_\s]/gu;
const MAX_COMPARISONS = 9e6; // parts of the one times parts of the other: about a tenth of a second

// Both texts as runs of {text, same}; null where they are too long to be compared.
function differences(reference, answer) {
  const left = reference.match(PARTS) ?? [];
  const right = answer.match(PARTS) ?? [];
  let start = 0;
  while (start < left.length && start < right.length && left[start] === right[start]) start++;
  let end = 0;
  const rest = Math.min(left.length, right.length) - start;
  while (end < rest && left[left.length - 1 - end] === right[right.length - 1 - end]) end++;
  const kept = commonParts(left.slice(start, left.length - end), right.slice(start, right.length - end));
  if (kept === null) return null;
  const runs = (parts, inside) =>
    joined(parts, (at) => at < start || at >= parts.length - end || inside.has(at - start));
  return [runs(left, kept.left), runs(right, kept.right)];
}

// The places of a longest common subsequence in both lists.
function commonParts(left, right) {
  if (left.length * right.length > MAX_COMPARISONS) return null;
  const width = right.length + 1;
  const lengths = new Uint16Array((left.length + 1) * width); // of the longest common subsequence from here on
  for (let i = left.length - 1; i >= 0; i--) {
    for (let j = right.length - 1; j >= 0; j--) {
      lengths[i * width + j] =
        left[i] === right[j]
          ? lengths[(i + 1) * width + j + 1] + 1
          : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
    }
  }
  const kept = { left: new Set(), right: new Set() };
  for (let i = 0, j = 0; i < left.length && j < right.length; ) {
    if (left[i] === right[j]) {
      kept.left.add(i++);
      kept.right.add(j++);
    } else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) i++;
    else j++;
  }
  return kept;
}

function joined(parts, isSame) {
  const runs = [];
  parts.forEach((text, at) => {
    const same = isSame(at);
    const last = runs[runs.length - 1];
    if (last && last.same === same) last.text += text;
    else runs.push({ text, same });
  });
  return runs;
}
