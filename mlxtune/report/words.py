"""Every word of a report that is not the run's own, in each language. The one place for them.

    say = Words("zh")
    say("losses.best", step=40)  # "第 40 步的验证损失最低"

A key is SECTION.NAME; a phrase's {placeholders} are the same in all languages. What a run, a recipe or a row says
(labels, texts, keys of the recipe, notes of the evaluation) stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class Phrase:
    """The same words in each language.

    Attributes:
        en: English.
        zh: Simplified Chinese.
        one: English where `n` is 1: "1 row"; "" where it is no other than `en`.
    """

    en: str
    zh: str
    one: str = ""


PHRASES: dict[str, Phrase] = {
    # Metrics, by the names in scores.json, are under "metric.NAME".
    "metric.exact_match": Phrase("exact match", "完全匹配率"),
    "metric.accuracy": Phrase("accuracy", "准确率"),
    "metric.partial_match": Phrase("partial match", "部分匹配率"),
    "metric.micro_f1": Phrase("micro F1", "微平均 F1"),
    "metric.macro_f1": Phrase("macro F1", "宏平均 F1"),
    "metric.sample_f1": Phrase("sample F1", "样本平均 F1"),
    "metric.length_ratio": Phrase("length ratio", "长度比"),
    "metric.placeholders_kept": Phrase("placeholders kept", "占位符保留率"),
    "metric.placeholders_invented": Phrase("placeholders invented", "虚构占位符的比例"),
    "metric.invalid_rate": Phrase("invalid replies", "无效回复率"),
    "metric.repeated_rate": Phrase("repeated labels or loops", "重复率"),
    "metric.loop_rate": Phrase("loops", "循环率"),
    "metric.cut_rate": Phrase("truncated replies", "截断率"),
    "metric.all_fields_correct": Phrase("all fields right", "全部字段正确率"),
    # Verdicts of comparisons, by the name that `Comparison.verdict` has.
    "verdict.better": Phrase("better", "更好"),
    "verdict.worse": Phrase("worse", "更差"),
    "verdict.higher": Phrase("higher", "更高"),
    "verdict.lower": Phrase("lower", "更低"),
    "verdict.no real difference": Phrase("no real difference", "无显著差异"),
    "verdict.too few rows": Phrase("too few rows to tell", "行数太少，无法判断"),
    "verdict.too few cases": Phrase("too few cases to tell", "样例太少，无法判断"),
    # Counts that stand alone or in a list.
    "count.rows": Phrase("{n:,} rows", "{n:,} 行", one="1 row"),
    "count.left_out": Phrase(
        "The first {shown:,} are shown; {n:,} more are not.",
        "仅显示前 {shown:,} 项，其余 {n:,} 项未显示。",
        one="The first {shown:,} are shown; 1 more is not.",
    ),
    "list.clauses": Phrase("; ", "；"),
    "list.more": Phrase("{items} and {n:,} more", "{items} 等，另有 {n:,} 项"),
    "list.of": Phrase("{title}: {name}", "{title}：{name}"),
    "list.separator": Phrase(", ", "、"),
    "list.sentences": Phrase(" ", ""),
    # Systems that answered the test rows.
    "system.tuned": Phrase("after tuning", "微调后"),
    "system.before": Phrase("before tuning", "微调前"),
    "system.majority": Phrase("most frequent answer (majority)", "多数类基线（majority）"),
    "system.keywords": Phrase("keywords", "关键词基线（keywords）"),
    "system.tfidf": Phrase("TF-IDF with logistic regression (tfidf)", "TF-IDF + 逻辑回归（tfidf）"),
    "system.zero_shot": Phrase("base model, zero-shot (zero_shot)", "基座模型零样本（zero_shot）"),
    "system.few_shot": Phrase("base model, few-shot (few_shot)", "基座模型少样本（few_shot）"),
    # A field: what labels and texts have in common.
    "field.summary": Phrase("The {metric} is {value} over {rows}.", "{metric}：{value}（测试集 {rows}）。"),
    "field.before.alone": Phrase("Before tuning it was {before}.", "微调前为 {before}。"),
    "field.before.better": Phrase(
        "Before tuning it was {before}. Tuning made it better: {change}.", "微调前为 {before}，微调后更好：{change}。"
    ),
    "field.before.worse": Phrase(
        "Before tuning it was {before}. Tuning made it worse: {change}.", "微调前为 {before}，微调后更差：{change}。"
    ),
    "field.before.higher": Phrase(
        "Before tuning it was {before}; it is higher now: {change}.", "微调前为 {before}，微调后更高：{change}。"
    ),
    "field.before.lower": Phrase(
        "Before tuning it was {before}; it is lower now: {change}.", "微调前为 {before}，微调后更低：{change}。"
    ),
    "field.before.no real difference": Phrase(
        "Before tuning it was {before}. That is no real difference: {change}.",
        "微调前为 {before}，差异不显著：{change}。",
    ),
    "field.before.too few rows": Phrase(
        "Before tuning it was {before}. These are too few rows to call {change} a change.",
        "微调前为 {before}。行数太少，无法判断 {change} 是否为真实变化。",
    ),
    "field.against.better": Phrase("It is better than: {systems}.", "优于：{systems}。"),
    "field.against.worse": Phrase("It is worse than: {systems}.", "不如：{systems}。"),
    "field.against.no real difference": Phrase(
        "There is no real difference from: {systems}.", "与以下基线无显著差异：{systems}。"
    ),
    "field.against.too few rows": Phrase(
        "There are too few rows to compare it with: {systems}.", "行数太少，无法与以下基线比较：{systems}。"
    ),
    "field.metrics": Phrase("Metrics", "评估指标"),
    "field.metric": Phrase("metric", "指标"),
    "field.value": Phrase("value", "数值"),
    "field.before": Phrase("before tuning", "微调前"),
    "field.after": Phrase("after tuning", "微调后"),
    "field.change": Phrase("change", "变化"),
    "field.verdict": Phrase("verdict", "结论"),
    "field.system": Phrase("system", "系统"),
    "field.difference": Phrase("model minus system", "模型减去该系统"),
    "field.difference.note": Phrase(
        "Differences are in {metric}, compared row by row on the same rows.",
        "差值按以下指标计算：{metric}；在相同的行上逐行配对比较。",
    ),
    "field.baselines": Phrase("The model beside other systems", "与其他系统对比"),
    "field.intervals": Phrase("95% intervals in brackets.", "方括号内为 95% 置信区间。"),
    "field.other_decoding": Phrase(
        "Before tuning the replies were decoded another way: {decoding}.",
        "微调前的回复使用了另一种解码方式：{decoding}。",
    ),
    "field.rows": Phrase("rows", "行数"),
    "field.share": Phrase("share", "占比"),
    # A field with labels.
    "labels.title": Phrase("Field {field}", "字段 {field}"),
    "labels.label": Phrase("label", "标签"),
    "labels.support": Phrase("rows", "行数"),
    "labels.said": Phrase("predicted", "预测次数"),
    "labels.precision": Phrase("precision", "精确率"),
    "labels.recall": Phrase("recall", "召回率"),
    "labels.f1": Phrase("F1", "F1"),
    "labels.f1.before": Phrase("F1 before", "微调前 F1"),
    "labels.table": Phrase("By label", "各标签表现"),
    "labels.table.rest": Phrase("Further labels", "其余标签"),
    "labels.table.note": Phrase(
        "Bars show precision, recall and F1 from 0 to 1.", "条形表示 0 到 1 的精确率、召回率和 F1。"
    ),
    "labels.table.nowhere": Phrase(
        "A score that cannot be computed, for want of rows, is shown as –; macro F1 counts it as 0.",
        "没有相应的行、无法计算的得分显示为 –，在宏平均 F1 中按 0 计。",
    ),
    "labels.recall.chart": Phrase("Recall of each label before and after tuning", "各标签召回率：微调前后对比"),
    "labels.recall.chart.some": Phrase(
        "Recall of the {n} most frequent labels before and after tuning", "最常见的 {n} 个标签的召回率：微调前后对比"
    ),
    "labels.recall.change": Phrase(
        "{label} from {before:.3f} to {after:.3f}", "{label} 从 {before:.3f} 到 {after:.3f}"
    ),
    "labels.by_count": Phrase("Exact match by number of expected labels", "按标签数量统计的完全匹配率"),
    "labels.by_count.count": Phrase("labels", "标签数"),
    "labels.exact.before": Phrase("exact match before", "微调前完全匹配率"),
    "labels.confusion": Phrase(
        "Confusion matrix: expected labels down, predicted ones across", "混淆矩阵：行为真实标签，列为预测标签"
    ),
    "labels.confusion.some": Phrase(
        "Confusion matrix of the {n} labels with most errors: expected down, predicted across",
        "错误最多的 {n} 个标签的混淆矩阵：行为真实标签，列为预测标签",
    ),
    "labels.confusion.right": Phrase("{label}: {share:.1%} of {rows} right", "{label}：{rows}中 {share:.1%} 正确"),
    "labels.confusion.most": Phrase("{right}, {share:.1%} {other}.", "{right}，{share:.1%} 为 {other}。"),
    "labels.confusion.only": Phrase("{right}.", "{right}。"),
    "labels.set_confusion": Phrase(
        "Which label is predicted in place of which: expected down, predicted across",
        "标签混淆：行为真实标签，列为模型给出的标签",
    ),
    "labels.set_confusion.note": Phrase(
        "The diagonal counts replies that have the expected label. Every other cell counts replies that miss it and have a wrong label. "
        "A row may add up to more than 100%, since a reply can have several wrong labels.",
        "对角线为正确给出该标签的行。其余单元格为漏掉该标签、却给出另一个错误标签的行。一个回复可能含多个错误标签，因此一行之和可能超过 100%。",
    ),
    "labels.added": Phrase(
        "Labels added to replies that have every expected label: {labels}.", "标签齐全、但多给出的标签：{labels}。"
    ),
    "labels.added.one": Phrase("{label} in {n:,} rows", "{label}（{n:,} 行）", one="{label} in 1 row"),
    "labels.nothing": Phrase("nothing instead", "仅漏掉"),
    "labels.other": Phrase("other labels", "其他标签"),
    "labels.invalid": Phrase("invalid reply", "无效回复"),
    "labels.predicted": Phrase("predicted", "预测标签"),
    "labels.expected": Phrase("expected", "真实标签"),
    "labels.error": Phrase("error", "错误"),
    "labels.errors": Phrase("The most frequent errors", "最常见的错误"),
    "labels.errors.first": Phrase("The most frequent errors: {errors}.", "最常见的错误：{errors}。"),
    "labels.error.rows": Phrase("{rows:,} of {of:,}", "{rows:,}/{of:,}"),
    "labels.error.counted": Phrase(
        "{error} in {rows:,} of {of:,} rows ({share:.1%})", "{error}（{rows:,}/{of:,}，{share:.1%}）"
    ),
    "labels.error.confused": Phrase("{label} is taken for {taken_for}", "{label} 被错分为 {taken_for}"),
    "labels.error.missed": Phrase("{label} is missed beside {beside}", "与 {beside} 同时出现的 {label} 被漏掉"),
    "labels.error.missed.alone": Phrase("{label} is missed where it stands alone", "单独出现的 {label} 被漏掉"),
    "labels.error.added": Phrase("{label} is added beside {beside}", "应为 {beside} 时多给出 {label}"),
    "labels.weak": Phrase("Labels with a recall below 0.5: {labels}.", "召回率低于 0.5 的标签：{labels}。"),
    "labels.weak.one": Phrase(
        "{label} (recall {recall:.3f} over {rows}, {share:.1%} of all)",
        "{label}（召回率 {recall:.3f}，{rows}，占 {share:.1%}）",
    ),
    "labels.rare": Phrase(
        "Rare among these: {labels}. More training rows, data.balance or class_weights may help.",
        "其中样本偏少的标签：{labels}。可增加训练数据，或使用 data.balance、class_weights。",
    ),
    "labels.too_often": Phrase(
        "{label} is predicted too often: {said:,} times, expected {expected:,} times.",
        "模型倾向于过度预测 {label}：预测 {said:,} 次，实际 {expected:,} 次。",
    ),
    "labels.too_seldom": Phrase(
        "{label} is predicted too rarely: {said:,} times, expected {expected:,} times.",
        "模型较少预测 {label}：预测 {said:,} 次，实际 {expected:,} 次。",
    ),
    # A text field.
    "texts.bucket.>0.5": Phrase("close (ROUGE-L over 0.5)", "优秀（ROUGE-L > 0.5）"),
    "texts.bucket.0.3-0.5": Phrase("partly alike (0.3 to 0.5)", "良好（0.3 到 0.5）"),
    "texts.bucket.<0.3": Phrase("far (under 0.3)", "一般（< 0.3）"),
    "texts.buckets": Phrase("Replies by how close they are to the reference (ROUGE-L)", "ROUGE-L 分布"),
    "texts.buckets.share": Phrase("share of the rows", "行数占比"),
    "texts.bucket.said": Phrase("{bucket}: {rows}", "{bucket}：{rows}"),
    "texts.rouge.note": Phrase(
        "ROUGE, BLEU and chrF compare words, not meaning: the same answer in other words scores low. Read the replies below, or have "
        "people (mlxtune review) or a model (mlxtune evaluate --judge) rate them.",
        "ROUGE、BLEU 和 chrF 只比较字面重叠，不代表语义：意思相同、措辞不同的回复得分也低。请阅读下面的回复，"
        "或用 mlxtune review 人工评估、用 mlxtune evaluate --judge 让模型评分。",
    ),
    "texts.length.longer": Phrase(
        "Replies are longer than their references: {ratio} times as many words.",
        "回复比参考答案长：词数是参考答案的 {ratio} 倍。",
    ),
    "texts.length.shorter": Phrase(
        "Replies are shorter than their references: {ratio} times as many words.",
        "回复比参考答案短：词数是参考答案的 {ratio} 倍。",
    ),
    "texts.length.same": Phrase(
        "Replies are about as long as their references: {ratio} times as many words.",
        "回复与参考答案长度相近：词数是参考答案的 {ratio} 倍。",
    ),
    "texts.placeholders.kept": Phrase(
        "Of the placeholders in the references, such as <name>, {share:.1%} are in the replies.",
        "参考答案中的占位符（如 <name>）有 {share:.1%} 保留在回复中。",
    ),
    "texts.placeholders.invented": Phrase(
        "{share:.1%} of the replies have a placeholder that their reference does not have.",
        "{share:.1%} 的回复含有参考答案中没有的占位符。",
    ),
    "texts.placeholders.none": Phrase(
        "No reply has a placeholder that its reference does not have.", "没有回复虚构占位符。"
    ),
    "texts.invalid": Phrase(
        "{share:.1%} of the replies have no text that can be read; they count as empty.",
        "{share:.1%} 的回复无法读出文本，按空文本计分。",
    ),
    "texts.conditions": Phrase("Where the labels are right, and where they are not", "标签正确与错误时的生成质量"),
    "texts.right": Phrase("labels right", "标签正确"),
    "texts.wrong": Phrase("labels wrong", "标签有误"),
    "texts.conditions.rows": Phrase("rows", "行数"),
    "texts.conditions.note": Phrase("Only fields with a closed list of labels count.", "只考虑有固定标签列表的字段。"),
    "texts.cases.best": Phrase("The best replies", "优秀案例"),
    "texts.cases.middle": Phrase("Average replies", "中等案例"),
    "texts.cases.worst": Phrase("The worst replies", "较差案例"),
    "texts.case": Phrase(
        "Row {row}, {place}: ROUGE-L {closeness:.3f}.", "第 {row} 行，{place}：ROUGE-L {closeness:.3f}。"
    ),
    "texts.case.right": Phrase("Right: {fields}.", "正确：{fields}。"),
    "texts.case.wrong": Phrase("Wrong: {fields}.", "错误：{fields}。"),
    "texts.case.wrong.one": Phrase("{field} ({said}, expected {expected})", "{field}（预测 {said}，应为 {expected}）"),
    "texts.case.nothing": Phrase("nothing", "无"),
    "texts.input": Phrase("input", "输入"),
    "texts.reference": Phrase("reference", "参考答案"),
    "texts.reply": Phrase("reply", "模型回复"),
    "texts.unreadable": Phrase("reply, which could not be read", "模型回复（无法解析）"),
    "texts.signatures": Phrase("How these were computed", "计算方式"),
    # Probabilities, thresholds and repeated samples.
    "calibration.ece": Phrase(
        "Expected calibration error {error:.3f} over {rows}: on average, a probability and the share that is right differ by that much.",
        "期望校准误差（ECE）为 {error:.3f}（{rows}）：预测概率与实际正确率的平均差距。",
    ),
    "calibration.over": Phrase("On the whole the model is too sure of itself.", "总体上模型过于自信。"),
    "calibration.under": Phrase("On the whole the model is less sure than it could be.", "总体上模型不够自信。"),
    "calibration.none": Phrase("No row has a probability.", "没有任何一行带有概率。"),
    "calibration.coverage": Phrase(
        "If only rows of probability {threshold:.3f} or more were answered, {coverage:.1%} of the rows would be, and {precision:.1%} of "
        "these would be right. The threshold was chosen on {rows} of validation, so that 95% are right there.",
        "如果只回答概率不低于 {threshold:.3f} 的行，可覆盖 {coverage:.1%} 的行，其中 {precision:.1%} 正确。该阈值在验证集（{rows}）上按 95% 精确率选定。",
    ),
    "calibration.coverage.empty": Phrase(
        "The threshold of 95% on validation rows is {threshold:.3f}; no test row reaches it.",
        "验证集上达到 95% 精确率的阈值为 {threshold:.3f}，没有测试行达到它。",
    ),
    "calibration.coverage.none": Phrase(
        "No probability is high enough to be right 95% of the time on validation rows.",
        "在验证集上，没有任何概率阈值能达到 95% 的精确率。",
    ),
    "calibration.chart": Phrase(
        "Reliability of {field}: how often is a probability right?", "{field} 的可靠性曲线：概率有多可信？"
    ),
    "calibration.diagonal": Phrase("perfectly calibrated", "完美校准"),
    "calibration.model": Phrase("the model", "模型"),
    "calibration.confidence": Phrase("mean probability", "平均概率"),
    "calibration.accuracy": Phrase("share that is right", "实际正确率"),
    "calibration.bin": Phrase("{low:.1f} to {high:.1f}", "{low:.1f} 到 {high:.1f}"),
    "calibration.bin.said": Phrase(
        "of {n:,} rows with a probability of {low:.1f} to {high:.1f} {accuracy:.1%} are right",
        "概率 {low:.1f} 到 {high:.1f} 的 {n:,} 行中 {accuracy:.1%} 正确",
        one="of 1 row with a probability of {low:.1f} to {high:.1f} {accuracy:.1%} is right",
    ),
    "calibration.table": Phrase("Rows by probability", "按概率分组"),
    "calibration.range": Phrase("probability", "概率"),
    "thresholds.title": Phrase(
        "Thresholds for {field}, chosen on {rows} of validation", "{field} 的标签阈值（在验证集 {rows}上选定）"
    ),
    "thresholds.gain": Phrase("What the thresholds change on the test rows", "阈值在测试集上的效果"),
    "thresholds.without": Phrase("without", "不用阈值"),
    "thresholds.with": Phrase("with", "使用阈值"),
    "thresholds.threshold": Phrase("threshold", "阈值"),
    "thresholds.f1": Phrase("F1 with it", "使用后 F1"),
    "thresholds.default": Phrase("F1 at 0.5", "阈值 0.5 时 F1"),
    "thresholds.note": Phrase("F1 of the validation rows.", "F1 为验证集上的值。"),
    "thresholds.better": Phrase(
        "Thresholds of {field} make its {metric} better: {change}.", "{field}（{metric}）：使用阈值后更好，{change}。"
    ),
    "thresholds.worse": Phrase(
        "Thresholds of {field} make its {metric} worse: {change}.", "{field}（{metric}）：使用阈值后更差，{change}。"
    ),
    "thresholds.same": Phrase(
        "Thresholds of {field} make no real difference to its {metric}: {change}.",
        "{field}（{metric}）：使用阈值无显著差异，{change}。",
    ),
    "consistency.title": Phrase("Consistency of repeated samples", "多次采样的一致性"),
    "consistency.intro": Phrase(
        "Each row was answered {repeats} times at temperature {temperature:g}.",
        "每一行以温度 {temperature:g} 采样 {repeats} 次。",
    ),
    "consistency.said": Phrase(
        "{field}: in {share:.1%} of the rows the samples do not all say the same.",
        "{field}：{share:.1%} 的行各次采样不完全一致。",
    ),
    "consistency.table": Phrase("How far the samples of a row agree", "同一行各次采样的一致程度"),
    "consistency.field": Phrase("field", "字段"),
    "consistency.agreement": Phrase("agreement", "一致率"),
    "consistency.entropy": Phrase("entropy, bits", "熵（比特）"),
    "consistency.flips": Phrase("rows that differ", "不一致的行"),
    "consistency.note": Phrase(
        "Agreement is the share of a row's samples that say what most of them say.",
        "一致率：同一行的多次采样中，与多数答案相同的比例。",
    ),
    "consistency.rows": Phrase("Rows whose samples differ", "采样结果不一致的行"),
    "consistency.values": Phrase("answers and how often", "各答案及次数"),
    "consistency.unreadable": Phrase("(unreadable)", "（无法解析）"),
    "field.row": Phrase("row", "行"),
    "field.place": Phrase("place", "位置"),
    "field.input": Phrase("input", "输入"),
    # Predictions.
    "predictions.title": Phrase("Predictions", "预测结果"),
    "predictions.rows": Phrase("{n:,} test rows.", "共 {n:,} 条测试数据。", one="1 test row."),
    "predictions.right": Phrase("Every label is right in {rows}.", "标签全部正确：{rows}。"),
    "predictions.problems": Phrase("Replies that could not be read: {rows}.", "无法解析的回复：{rows}。"),
    # Exported artifacts, verified.
    "verify.title": Phrase("Exports, verified", "导出验证"),
    "verify.kept": Phrase(
        "All {n} artifacts keep the adapter's scores on {rows}, within the tolerance of {tolerance:g}.",
        "全部 {n} 个导出产物在测试集（{rows}）上保持了适配器的得分，容差 {tolerance:g}。",
        one="The artifact keeps the adapter's scores on {rows}, within the tolerance of {tolerance:g}.",
    ),
    "verify.lost": Phrase(
        "{artifact}: {metric} fell by {fell:.3f}, to {value:.3f}.",
        "{artifact}（{metric}）：下降 {fell:.3f}，降至 {value:.3f}。",
    ),
    "verify.tolerance": Phrase(
        "That is more than the tolerance of {tolerance:g} ({rows}).", "超过容差 {tolerance:g}（{rows}）。"
    ),
    "verify.failed": Phrase("{artifact} failed: {why}", "{artifact} 失败：{why}"),
    "verify.adapter": Phrase("base model with adapter", "基座模型 + 适配器"),
    "verify.adapter.decoding": Phrase("base model with adapter, {decoding}", "基座模型 + 适配器（{decoding}）"),
    "verify.artifacts": Phrase("Artifacts", "导出产物"),
    "verify.artifacts.note": Phrase(
        "Replies and logits are compared with those of the base model with the adapter.",
        "回复和 logits 均与“基座模型 + 适配器”比较。",
    ),
    "verify.artifact": Phrase("artifact", "产物"),
    "verify.loaded_by": Phrase("loaded by", "加载方式"),
    "verify.same": Phrase("same replies", "回复一致"),
    "verify.logits": Phrase("logits differ by", "logits 最大差"),
    "verify.size": Phrase("size", "大小"),
    "verify.seconds": Phrase("seconds a row", "秒/行"),
    "verify.metric": Phrase("{field}: {metric}", "{field}：{metric}"),
    "verify.difference": Phrase("difference to adapter", "与适配器之差"),
    # Criteria of a judge and of people.
    "criterion.accuracy": Phrase("accuracy", "准确性"),
    "criterion.relevance": Phrase("relevance", "相关性"),
    "criterion.professionalism": Phrase("professionalism", "专业性"),
    "criterion.completeness": Phrase("completeness", "完整性"),
    "criterion.tone": Phrase("tone", "语气"),
    "criterion.overall": Phrase("overall", "总体"),
    # A model judge's ratings.
    "judge.title": Phrase("Ratings by a model", "模型评分"),
    "judge.intro": Phrase(
        "{model} compared the replies to {rows} with their references, and rated each from 1 to 5.",
        "{model} 对照参考答案评分（1 到 5 分），共 {rows}。",
    ),
    "judge.counts": Phrase("Of the ratings: {counts}.", "评分情况：{counts}。"),
    "judge.judged": Phrase("{n:,} given", "{n:,} 条已评"),
    "judge.missing": Phrase(
        "{n:,} of replies without the text, which count as the lowest", "{n:,} 条回复缺少文本（按最低分计）"
    ),
    "judge.unparseable": Phrase("{n:,} without clear scores", "{n:,} 条评分无法解析"),
    "judge.refused": Phrase("{n:,} refused", "{n:,} 条被拒绝"),
    "judge.failed": Phrase("{n:,} failed", "{n:,} 条失败"),
    "judge.means": Phrase("Mean ratings", "平均评分"),
    "judge.field": Phrase("field", "字段"),
    "judge.criterion": Phrase("criterion", "维度"),
    "judge.mean": Phrase("mean, 1 to 5", "平均分（1 到 5）"),
    "judge.nothing": Phrase("nothing judged", "无评分"),
    "judge.correlation": Phrase(
        "{field}: the overall rating and {metric} correlate at {value} (Spearman; 1 is the same order).",
        "{field}：总体评分与 {metric} 的 Spearman 相关系数为 {value}（1 表示排序一致）。",
    ),
    # People's ratings.
    "people.title": Phrase("Ratings by people", "人工评估"),
    "people.intro": Phrase(
        "{raters} rated {rated:,} of {cases:,} cases from 1 to 5. What they rated: {what}.",
        "{raters}为 {cases:,} 个样例中的 {rated:,} 个评分（1 到 5 分），评估内容：{what}。",
    ),
    "people.raters": Phrase("{n} people", "{n} 位评估者", one="1 person"),
    "people.whole_reply": Phrase("the whole reply", "完整回复"),
    "people.means": Phrase("Mean ratings, 1 to 5", "平均评分（1 到 5）"),
    "people.dimension": Phrase("dimension", "维度"),
    "people.scores": Phrase("scores", "评分数"),
    "people.not_rated": Phrase("not rated", "未评分"),
    "people.cases": Phrase("cases", "样例数"),
    "people.difference": Phrase("difference", "差值"),
    "people.differences": Phrase(
        "{run} minus {against}, by people who rated both", "{run} 减去 {against}（由评过两者的评估者打分）"
    ),
    "people.agreement": Phrase("Whether the raters agree", "评估者一致性"),
    "people.lines": Phrase("lines", "条目数"),
    "people.alpha.ordinal": Phrase("alpha, ordinal", "alpha（有序）"),
    "people.alpha.interval": Phrase("alpha, interval", "alpha（等距）"),
    "people.equal": Phrase("equal pairs", "评分相同的比例"),
    "people.alpha": Phrase(
        "Krippendorff's alpha: 1 is perfect agreement, 0 is what chance would give. Ratings are reliable from 0.8, and from 0.667 with care.",
        "Krippendorff's alpha：1 为完全一致，0 为随机水平；0.8 以上可靠，0.667 以上可谨慎参考。",
    ),
    "people.one_rater": Phrase(
        "Whether raters agree is not known: two or more must rate the same cases.",
        "无法判断评估者一致性：需要至少两位评估者评同样的样例。",
    ),
    "people.no_variation": Phrase("no variation", "无差异"),
    "people.rouge": Phrase("{run}: ratings by ROUGE-L", "{run}：人工评分与 ROUGE-L"),
    "people.rouge.note": Phrase(
        "Correlations are between the mean rating of a case and its ROUGE-L.",
        "相关系数为样例平均评分与其 ROUGE-L 之间的相关。",
    ),
    "people.spearman": Phrase("Spearman", "Spearman"),
    "people.pearson": Phrase("Pearson", "Pearson"),
    "people.more": Phrase("Raters, lowest ratings and comments", "评估者、最低评分与评语"),
    "people.rater_means": Phrase("Mean of what each rater gave", "各评估者的平均分"),
    "people.rater": Phrase("rater", "评估者"),
    "people.case": Phrase("case", "样例"),
    "people.run": Phrase("run", "模型"),
    "people.lowest": Phrase("The lowest ratings", "最低评分"),
    "people.comments": Phrase("Comments", "评语"),
    "people.comment": Phrase("comment", "评语"),
    # The data of a run.
    "data.title": Phrase("Data", "数据"),
    "data.split.train": Phrase("training rows", "训练集"),
    "data.split.valid": Phrase("validation rows", "验证集"),
    "data.split.test": Phrase("test rows", "测试集"),
    "data.missing.gone": Phrase(
        "The file of the {split} is gone, so they are not accounted for.", "{split}文件已不存在，无法统计。"
    ),
    "data.missing.changed": Phrase(
        "The file of the {split} has changed since, so they are not accounted for.",
        "{split}文件之后被修改过，无法统计。",
    ),
    "data.missing.unreadable": Phrase(
        "The {split} cannot be read, so they are not accounted for.", "{split}无法读取，无法统计。"
    ),
    "data.missing.no_tokenizer": Phrase(
        "The base model's tokenizer is gone, so the {split} are not accounted for.",
        "基座模型的分词器已不存在，无法统计{split}。",
    ),
    "data.leaks": Phrase(
        "Leaks: {n:,} rows are also in another split, or nearly so, {exact:,} of them word for word. Scores on them say little.",
        "数据泄漏：{n:,} 行在其他数据集中也出现（或几乎相同），其中 {exact:,} 行完全相同。这些行上的得分参考价值有限。",
        one="Leaks: 1 row is also in another split, or nearly so. Its score says little.",
    ),
    "data.leaks.none": Phrase("No row is in two splits.", "各数据集之间没有重复的行。"),
    "data.leaks.title": Phrase("Leaks between splits ({n:,})", "数据集之间的泄漏（{n:,}）"),
    "data.conflicts": Phrase(
        "{n:,} pairs of rows have the same text, or nearly the same, and different labels.",
        "有 {n:,} 对文本相同（或几乎相同）但标签不同的行。",
        one="1 pair of rows has the same text, or nearly the same, and different labels.",
    ),
    "data.conflicts.title": Phrase("Same text, different labels ({n:,})", "文本相同但标签不同（{n:,}）"),
    "data.unseen": Phrase("Labels without a training row: {labels}.", "训练集中没有出现的标签：{labels}。"),
    "data.unseen.one": Phrase(
        "{label} of {field} (in {n:,} of the {split})", "{field} 的 {label}（{split}中 {n:,} 行）"
    ),
    "data.unseen.nowhere": Phrase("{label} of {field} (in no split)", "{field} 的 {label}（所有数据集中都没有）"),
    "data.collisions": Phrase("Labels that begin with the same token ({n:,})", "首个 token 相同的标签（{n:,}）"),
    "data.collisions.note": Phrase(
        "Their first token does not tell these labels apart; what follows does.",
        "仅凭首个 token 无法区分这些标签，要看后续 token。",
    ),
    "data.collision.token": Phrase("token", "token"),
    "data.collision.where": Phrase("place", "位置"),
    "data.collision.first": Phrase("first in the field", "字段开头"),
    "data.collision.after": Phrase("after another label", "其他标签之后"),
    "data.collision.labels": Phrase("labels", "标签"),
    "data.several": Phrase("Rows with several labels in {field}: {splits}.", "{field} 含多个标签的行：{splits}。"),
    "data.several.same": Phrase("{after:.1%} of the {split}", "{split} {after:.1%}"),
    "data.several.changed": Phrase(
        "{before:.1%} of the {split} as read and {after:.1%} as used", "{split}读取时 {before:.1%}、使用时 {after:.1%}"
    ),
    "data.uneven": Phrase(
        "{field} is uneven: {most} has {most_rows} of the training rows, {rarest} {rarest_rows}: {times:.1f} times as many.",
        "{field} 类别不平衡：{most} 有 {most_rows} 行，{rarest} 只有 {rarest_rows} 行，相差 {times:.1f} 倍。",
    ),
    "data.rows": Phrase("What became of the rows", "数据行的去向"),
    "data.file": Phrase("{split}: {file}", "{split}：{file}"),
    "data.rows.step": Phrase("step", "步骤"),
    "data.rows.read": Phrase("read", "读取"),
    "data.rows.duplicates": Phrase("exact duplicates removed", "去除完全重复"),
    "data.rows.near_duplicates": Phrase("near-duplicates removed", "去除近似重复"),
    "data.rows.empty": Phrase("empty texts removed", "去除空文本"),
    "data.rows.too_short": Phrase("texts that are too short removed", "去除过短文本"),
    "data.rows.garbled": Phrase("garbled texts removed", "去除乱码文本"),
    "data.rows.missing_label": Phrase("rows without a label removed", "去除缺少标签的行"),
    "data.rows.unknown_label": Phrase("rows with an unknown label removed", "去除标签未知的行"),
    "data.rows.unusable": Phrase("rows that cannot be used", "无法使用的行"),
    "data.rows.held_out": Phrase("held out to validate with", "划出作验证"),
    "data.rows.rewritten": Phrase("rewritten by a model", "由模型改写生成"),
    "data.rows.too_long": Phrase("longer than {limit:,} tokens, left out", "超过 {limit:,} token，未使用"),
    "data.rows.balanced": Phrase("repeated or left out to balance", "平衡时重复或舍弃"),
    "data.rows.used": Phrase("used", "使用"),
    "data.rows.synthetic": Phrase("of them synthetic", "其中合成数据"),
    "data.rows.left.duplicates": Phrase("exact duplicates left in", "未去除的完全重复"),
    "data.rows.left.near_duplicates": Phrase("near-duplicates left in", "未去除的近似重复"),
    "data.rows.left.low_quality": Phrase("low-quality rows left in", "未去除的低质量行"),
    "data.labels": Phrase("Labels of {field} in each split", "{field} 在各数据集中的标签分布"),
    "data.labels.some": Phrase(
        "The {n} most frequent labels of {field} in each split", "{field} 最常见的 {n} 个标签在各数据集中的分布"
    ),
    "data.labels.share": Phrase("share of the rows", "行数占比"),
    "data.labels.one": Phrase("{label} {rows}", "{label} {rows}"),
    "data.labels.description": Phrase("Of the {split}: {labels}.", "{split}：{labels}。"),
    "data.labels.counts": Phrase("Rows by label of {field}", "{field} 各标签行数"),
    "data.labels.more": Phrase("Counts of {field}", "{field} 的详细计数"),
    "data.labels.same": Phrase("the same", "相同"),
    "data.labels.differ": Phrase("others", "不同"),
    "data.sets": Phrase("Rows by set of labels of {field}", "{field} 各标签组合的行数"),
    "data.set": Phrase("labels", "标签组合"),
    "data.pair": Phrase("pair", "标签对"),
    "data.pair.one": Phrase("{labels}: {rows}", "{labels}：{rows}"),
    "data.together": Phrase("Training rows with both labels of {field}", "{field} 的标签共现（训练集行数）"),
    "data.lengths": Phrase("Lengths in tokens", "长度（token 数）"),
    "data.lengths.of": Phrase("tokens of", "统计对象"),
    "data.lengths.whole": Phrase("{split}, prompt and reply", "{split}（提示 + 回复）"),
    "data.lengths.reply": Phrase("{split}, reply alone", "{split}（仅回复）"),
    "data.lengths.median": Phrase("median", "中位数"),
    "data.lengths.p95": Phrase("95% within", "95% 不超过"),
    "data.lengths.max": Phrase("longest", "最长"),
    "data.lengths.note": Phrase(
        "Longer than train.max_tokens = {limit:,}: {rows}.", "超过 train.max_tokens = {limit:,} 的：{rows}。"
    ),
    "data.augment": Phrase(
        "{model} rewrote rows whose {field} is {value}: {made} of {wanted:,} wanted, from {before}.",
        "{model} 改写了 {field} 为 {value} 的数据：由 {before}改写出 {made}（目标 {wanted:,} 行）。",
    ),
    "data.balance": Phrase("Training rows before and after balancing", "平衡前后的训练行数"),
    "data.balance.before": Phrase("before", "平衡前"),
    "data.balance.after": Phrase("after", "平衡后"),
    "data.balance.ratio": Phrase(
        "Rows of the rarest over those of the most frequent: {before:.3f} before, {after:.3f} after.",
        "最少类别与最多类别的行数之比：平衡前 {before:.3f}，平衡后 {after:.3f}。",
    ),
    "data.weights": Phrase("Class weights of {field}", "{field} 的类别权重"),
    "data.weights.weight": Phrase("class weight", "类别权重"),
    "data.weights.product": Phrase("times loss weight", "乘以损失权重"),
    "data.weights.balanced": Phrase(
        "Weights come from the counts (balanced); the field's loss weight is {loss_weight:g}.",
        "权重由行数计算（balanced）；字段损失权重为 {loss_weight:g}。",
    ),
    "data.weights.given": Phrase(
        "Weights are the recipe's; the field's loss weight is {loss_weight:g}.",
        "权重由配方指定；字段损失权重为 {loss_weight:g}。",
    ),
    "data.leak.row": Phrase("row", "行"),
    "data.leak.other": Phrase("is also", "同时出现在"),
    "data.leak.labels": Phrase("labels", "标签"),
    "data.likeness": Phrase("similarity", "相似度"),
    "data.same": Phrase("the same", "完全相同"),
    "data.nearly": Phrase("nearly the same ({similarity:.2f})", "几乎相同（{similarity:.2f}）"),
    "data.nearly.alike": Phrase("nearly the same", "几乎相同"),
    "data.text": Phrase("text", "文本"),
    "data.conflict.row": Phrase("row", "行"),
    "data.conflict.other": Phrase("other row", "另一行"),
    "data.placed": Phrase("{place} ({split})", "{place}（{split}）"),
    # The conditions of the recipe (evaluate.expect).
    "conditions.title": Phrase("Conditions", "达标条件"),
    "conditions.table": Phrase("Conditions of the recipe (evaluate.expect)", "配方中的达标条件（evaluate.expect）"),
    "conditions.name": Phrase("metric", "指标"),
    "conditions.condition": Phrase("condition", "条件"),
    "conditions.value": Phrase("measured", "实测值"),
    "conditions.result": Phrase("result", "结果"),
    "conditions.by": Phrase("by how much", "差距"),
    "conditions.met": Phrase("met", "达标"),
    "conditions.unmet": Phrase("not met", "未达标"),
    "conditions.note": Phrase(
        "“interval”: the whole 95% interval must meet the bound. “better than”: the difference must be significant.",
        "“interval”要求整个 95% 置信区间都满足条件；“better than”要求差异显著。",
    ),
    "conditions.all": Phrase(
        "All {n} conditions of the recipe are met.",
        "配方中的 {n} 项条件全部达标。",
        one="The recipe's condition is met.",
    ),
    "conditions.some": Phrase(
        "{met} of the recipe's {n} conditions are met. Not met: {unmet}.",
        "配方中的 {n} 项条件有 {met} 项达标。未达标：{unmet}。",
        one="The recipe's condition is not met: {unmet}.",
    ),
    "conditions.one": Phrase("{name} {condition} ({by})", "{name} {condition}（{by}）"),
    "conditions.spare": Phrase("{size} to spare", "余量 {size}"),
    "conditions.too.low": Phrase("{size} too low", "低 {size}"),
    "conditions.too.high": Phrase("{size} too high", "高 {size}"),
    "conditions.difference": Phrase("difference {difference}", "差值 {difference}"),
    "conditions.missing.label": Phrase("no test row expects this label", "测试集中没有该标签的样本"),
    "conditions.missing.interval": Phrase("too few rows for an interval", "行数太少，没有置信区间"),
    "conditions.missing.probabilities": Phrase("there are no probabilities", "没有计算概率"),
    "conditions.missing.bertscore": Phrase("BERTScore was not computed", "没有计算 BERTScore"),
    "conditions.missing.placeholders": Phrase("no reference has a placeholder", "参考答案中没有占位符"),
    "conditions.missing.speed": Phrase(
        "the replies come from a file, so speed was not measured", "回复来自文件，没有测速"
    ),
    "conditions.missing.memory": Phrase("the memory in use is not known", "内存用量未知"),
    "conditions.missing.before": Phrase("there is no model before tuning to compare with", "没有可对比的微调前结果"),
    "conditions.missing.baseline": Phrase("no model was asked for this baseline", "没有运行该基线"),
    "conditions.missing.comparison": Phrase("this baseline has no answers to compare with", "该基线没有可对比的回答"),
    "conditions.missing.metric": Phrase("this evaluation does not have it", "本次评估没有该指标"),
    # The page's own words; those under "page_script.NAME" are for its script.
    "page.contents": Phrase("Contents", "目录"),
    "page.skip": Phrase("Skip to the content", "跳到正文"),
    "page.colors": Phrase("Colors", "配色"),
    "page.colors_system": Phrase("Auto", "自动"),
    "page.colors_light": Phrase("Light", "浅色"),
    "page.colors_dark": Phrase("Dark", "深色"),
    "page.before": Phrase("before tuning", "微调前"),
    "page.no_script": Phrase(
        "JavaScript is off. The predictions cannot be shown without it; everything else can be read, and where "
        "there is a choice, every version is shown.",
        "JavaScript 已关闭，无法显示逐条预测；其余内容均可阅读，各可选版本全部列出。",
    ),
    "page.predictions_need_script": Phrase(
        "The {count:,} predictions need JavaScript.", "显示 {count:,} 条预测需要启用 JavaScript。"
    ),
    "page.predictions": Phrase("Predictions", "逐条预测"),
    "page.shortened": Phrase(
        "[The first {shown:,} of {total:,} characters.{whole}]", "[仅显示前 {shown:,} 个字符，共 {total:,} 个。{whole}]"
    ),
    "page.whole_input": Phrase("The whole text: {place}.", "全文见 {place}。"),
    "page.whole_reply": Phrase(
        "The whole text: row {number} of the predictions file.", "全文见预测文件第 {number} 行（从 0 数起）。"
    ),
    "page_script.copy": Phrase("Copy", "复制"),
    "page_script.copied": Phrase("Copied", "已复制"),
    "page_script.copy_failed": Phrase("Select and copy it by hand", "请手动选择并复制"),
    "page_script.loading": Phrase("Loading the predictions …", "正在载入预测……"),
    "page_script.too_old": Phrase(
        "This browser cannot unpack the predictions: Chrome 87, Firefox 113, Safari 16.4 or newer can.",
        "此浏览器无法解压预测数据，请使用 Chrome 87、Firefox 113、Safari 16.4 或更新的版本。",
    ),
    "page_script.filters": Phrase("Filters", "筛选"),
    "page_script.search": Phrase("Search", "搜索"),
    "page_script.search_hint": Phrase("in inputs, references and replies", "输入、参考答案与回复"),
    "page_script.system": Phrase("System", "系统"),
    "page_script.field": Phrase("Field", "字段"),
    "page_script.all_fields": Phrase("all fields", "全部字段"),
    "page_script.result": Phrase("Result", "结果"),
    "page_script.any": Phrase("any", "不限"),
    "page_script.right": Phrase("right", "正确"),
    "page_script.wrong": Phrase("wrong", "错误"),
    "page_script.unreadable": Phrase("unreadable", "无法解析"),
    "page_script.label": Phrase("Label", "标签"),
    "page_script.labelIn": Phrase("Label is in", "标签位于"),
    "page_script.labelIn_either": Phrase("reference or answer", "参考或回答"),
    "page_script.labelIn_reference": Phrase("reference", "参考"),
    "page_script.labelIn_answer": Phrase("answer", "回答"),
    "page_script.labelIn_one": Phrase("one, not the other", "仅其一"),
    "page_script.bucket": Phrase("ROUGE-L", "ROUGE-L"),
    "page_script.disagree": Phrase("Systems disagree", "各系统回答不一"),
    "page_script.reset": Phrase("Reset", "重置"),
    "page_script.count": Phrase("{count} of {total} rows", "{total} 行中的 {count} 行"),
    "page_script.no_rows": Phrase("No row fits these filters.", "没有符合筛选条件的行。"),
    "page_script.row": Phrase("Row", "行"),
    "page_script.row_number": Phrase("Row {number}", "第 {number} 行"),
    "page_script.input": Phrase("Input", "输入"),
    "page_script.reference": Phrase("Reference", "参考"),
    "page_script.answer": Phrase("Answer", "回答"),
    "page_script.probability": Phrase("Probability", "概率"),
    "page_script.probability_short": Phrase("p", "p"),
    "page_script.no_reply": Phrase("no reply", "无回复"),
    "page_script.nothing_read": Phrase("nothing could be read", "未能解析出内容"),
    "page_script.empty": Phrase("empty", "空"),
    "page_script.raw_reply": Phrase("Raw reply", "原始回复"),
    "page_script.raw_reply_of": Phrase("Raw reply of {system}", "{system} 的原始回复"),
    "page_script.why_unreadable": Phrase("Why it cannot be read", "无法解析的原因"),
    "page_script.previous_row": Phrase("Previous row", "上一行"),
    "page_script.next_row": Phrase("Next row", "下一行"),
    "page_script.open_row": Phrase("Open or close", "展开或收起"),
    "page_script.copy_link": Phrase("Copy link", "复制链接"),
    "page_script.link_to_row": Phrase("Link to this row", "本行链接"),
    "page_script.close": Phrase("Close", "收起"),
    "page_script.keys": Phrase(
        "Keys: j next row, k previous row, Enter opens and closes it", "快捷键：j 下一行，k 上一行，Enter 展开或收起"
    ),
    "page_script.first_page": Phrase("First page", "首页"),
    "page_script.previous_page": Phrase("Previous page", "上一页"),
    "page_script.next_page": Phrase("Next page", "下一页"),
    "page_script.last_page": Phrase("Last page", "末页"),
    "page_script.page_of": Phrase("Page {page} of {pages}", "第 {page} 页，共 {pages} 页"),
    "page_script.rows_a_page": Phrase("Rows a page", "每页行数"),
    "page_script.printed": Phrase(
        "These are the rows of the table's current page. Filters: {filters}.",
        "此处打印的是表格当前页的行，筛选条件：{filters}。",
    ),
    "page_script.no_filter": Phrase("none", "无"),
    "page_script.difference_legend": Phrase(
        "Struck through: only in the reference. Underlined: only in the answer.",
        "删除线：仅在参考中。下划线：仅在回答中。",
    ),
    "page_script.too_long_to_compare": Phrase(
        "The texts are too long to mark their differences.", "文本过长，未标出差异。"
    ),
    # The report as a whole.
    "report.title": Phrase("Fine-tuning report: {name}", "微调报告：{name}"),
    "report.title.several": Phrase(
        "Fine-tuning report: {n} runs", "微调报告：{n} 个模型", one="Fine-tuning report: 1 run"
    ),
    "report.made": Phrase("Made on {when} by mlxtune {version}.", "由 mlxtune {version} 于 {when} 生成。"),
    "time.seconds": Phrase("{seconds:.0f} s", "{seconds:.0f} 秒"),
    "time.minutes": Phrase("{minutes} min {seconds} s", "{minutes} 分 {seconds} 秒"),
    "time.hours": Phrase("{hours} h {minutes} min", "{hours} 小时 {minutes} 分"),
    # Metrics of all fields beside other systems.
    "results.title": Phrase("Metrics beside other systems", "与其他系统的指标对比"),
    "results.field": Phrase("field", "字段"),
    "results.metric": Phrase("metric", "指标"),
    "results.note": Phrase(
        "{rows}, {decoding}. In brackets: 95% intervals over the rows.",
        "{rows}，{decoding}。方括号内为按行重采样的 95% 置信区间。",
    ),
    "results.line": Phrase("{field}, {metric}", "{field} 的{metric}"),
    "results.whole_reply": Phrase("whole reply", "整条回复"),
    "results.in_decoding": Phrase("{system}, {decoding}", "{system}（{decoding}）"),
    "results.decoding.both": Phrase(
        "asked twice: with decoding that allows only replies of the recipe's form (constrained), and freely",
        "每行提问两次：约束解码（只允许符合模板的回复）与自由解码",
    ),
    "results.decoding.constrained": Phrase(
        "constrained decoding: only replies of the recipe's form can be written", "约束解码：只允许符合模板的回复"
    ),
    "results.decoding.best": Phrase(
        "best decoding: the most probable of all replies of the recipe's form is taken",
        "最优解码：取符合模板的回复中概率最高者",
    ),
    "results.decoding.free": Phrase("free decoding: the model can write anything", "自由解码：模型可输出任意文本"),
    # The first section.
    "headline.title": Phrase("Summary", "概要"),
    "headline.not_evaluated": Phrase(
        "This run was not evaluated, so how well it does is not known. Evaluate it on the test rows:",
        "该模型尚未评估，效果未知。请在测试集上评估：",
    ),
    "headline.outdated": Phrase(
        "The run was trained further after this evaluation, whose scores are of an earlier adapter. Evaluate it again:",
        "评估之后又继续训练过，下列分数属于较早的适配器。请重新评估：",
    ),
    "headline.unfinished": Phrase("Training did not finish (status: {status}).", "训练未完成（状态：{status}）。"),
    "headline.because": Phrase("The reason: {error}", "原因：{error}"),
    "headline.no_base": Phrase(
        "The model before tuning was not evaluated on these rows; evaluate it with `{command}`.",
        "尚未在同一测试集上评估微调前的模型；可运行 `{command}`。",
    ),
    "headline.perplexity": Phrase("perplexity of the test documents", "测试文档的困惑度"),
    "headline.loss": Phrase("loss (nats a token)", "损失（nat / 词元）"),
    "headline.documents": Phrase(
        "Measured on {documents:,} documents of {tokens:,} tokens, in pieces of up to {longest:,} tokens; both are better where they are lower.",
        "在 {documents:,} 篇文档（{tokens:,} 个词元，每段至多 {longest:,} 个）上测得；两项都是越低越好。",
    ),
    "headline.notes": Phrase("Notes of the evaluation", "评估备注"),
    "headline.change.better": Phrase("better than before: {change}", "优于微调前：{change}"),
    "headline.change.worse": Phrase("worse than before: {change}", "不如微调前：{change}"),
    "headline.change.higher": Phrase("higher than before: {change}", "高于微调前：{change}"),
    "headline.change.lower": Phrase("lower than before: {change}", "低于微调前：{change}"),
    "headline.change.no real difference": Phrase(
        "no real difference from before: {change}", "与微调前无显著差异：{change}"
    ),
    "headline.change.too few rows": Phrase("too few rows to tell: {change}", "行数太少，无法判断：{change}"),
    "results.against.better": Phrase(
        "{what}: better than {other}, by {change}.", "{what}优于“{other}”，差值 {change}。"
    ),
    "results.against.worse": Phrase("{what}: worse than {other}, by {change}.", "{what}不如“{other}”，差值 {change}。"),
    "results.against.higher": Phrase(
        "{what}: higher than {other}, by {change}.", "{what}高于“{other}”，差值 {change}。"
    ),
    "results.against.lower": Phrase("{what}: lower than {other}, by {change}.", "{what}低于“{other}”，差值 {change}。"),
    "results.against.no real difference": Phrase(
        "{what}: no real difference from {other} ({change}).", "{what}与“{other}”无显著差异（{change}）。"
    ),
    "results.against.too few rows": Phrase(
        "{what}: too few rows to tell it from {other} ({change}).",
        "{what}：行数太少，无法与“{other}”区分（{change}）。",
    ),
    "headline.recipe": Phrase("recipe", "配方"),
    "headline.evaluation": Phrase("evaluation", "评估"),
    "headline.run": Phrase("run", "运行目录"),
    "headline.base": Phrase("base model", "基座模型"),
    "headline.quantized": Phrase(
        "{base}, quantized to {bits} bits (Q{method})", "{base}，量化为 {bits} 位（Q{method}）"
    ),
    "headline.parameters": Phrase("trained parameters", "可训练参数"),
    "headline.trained": Phrase(
        "{n:,}: {method} of rank {rank}, alpha {alpha:g}.", "{n:,}（{method}，rank {rank}，alpha {alpha:g}）"
    ),
    "headline.trained_whole": Phrase("{n:,}: full fine-tuning.", "{n:,}（全参数微调）"),
    "headline.share": Phrase("That is {share:.2%} of {whole:,}.", "，占全部 {whole:,} 的 {share:.2%}"),
    "headline.adapter": Phrase("adapter size", "适配器大小"),
    "headline.model": Phrase("size of the model", "模型大小"),
    "headline.rows": Phrase("rows", "数据行数"),
    "headline.rows.train": Phrase("{n:,} for training", "训练 {n:,}"),
    "headline.rows.valid": Phrase("{n:,} for validation", "验证 {n:,}"),
    "headline.rows.test": Phrase("{n:,} for testing", "测试 {n:,}"),
    "headline.steps": Phrase("steps", "训练步数"),
    "headline.of": Phrase("{taken:,} of {planned:,}", "{taken:,} / {planned:,}"),
    "headline.epochs": Phrase("({epochs:.2g} epochs)", "（{epochs:.2g} 轮）"),
    "headline.time": Phrase("training time", "训练时间"),
    "headline.device": Phrase("device", "设备"),
    "headline.with": Phrase("{device}, with {backend}", "{device}，{backend}"),
    "headline.memory": Phrase("peak memory", "峰值内存"),
    # Training.
    "training.title": Phrase("Training", "训练过程"),
    "training.verdict.healthy": Phrase("Healthy: no sign of over-fitting.", "正常：没有过拟合迹象。"),
    "training.verdict.over-fitting": Phrase(
        "Over-fitting: the model learns the training rows themselves more than the task.",
        "过拟合：模型更多地记住了训练样本，而不是学会任务。",
    ),
    "training.verdict.under-fitting": Phrase(
        "Under-fitting: both losses still fell at the end, so more training should help.",
        "欠拟合：训练结束时两种损失仍在下降，继续训练应有改善。",
    ),
    "training.verdict.diverging": Phrase("Diverging: the training loss rose again.", "发散：训练损失重新上升。"),
    "training.verdict.too few validations to tell": Phrase(
        "Too few validations to tell whether it over-fits.", "验证次数太少，无法判断是否过拟合。"
    ),
    "training.no_validation": Phrase(
        "There was no validation, so whether the model over-fits is not known.", "训练中没有验证，无法判断是否过拟合。"
    ),
    "training.no_diagnosis": Phrase("No diagnosis of the losses was recorded.", "没有记录对损失的诊断。"),
    "training.ratio": Phrase(
        "At step {step:,} the validation loss is {valid:.3g} and the training loss {train:.3g}, a ratio of {ratio:.2f}.",
        "第 {step:,} 步的验证损失为 {valid:.3g}，训练损失为 {train:.3g}，比值 {ratio:.2f}。",
    ),
    "training.ratio_before": Phrase(
        "At step {step:,} the ratio was {ratio:.2f}.", "第 {step:,} 步时比值为 {ratio:.2f}。"
    ),
    "training.best.at_end": Phrase(
        "The validation loss was lowest at the end, {loss:.3g}.", "验证损失在结束时最低，为 {loss:.3g}。"
    ),
    "training.best.level": Phrase(
        "The validation loss was lowest at step {step:,} ({loss:.3g}) and has stayed level since.",
        "验证损失在第 {step:,} 步最低（{loss:.3g}），之后基本持平。",
    ),
    "training.best.rose": Phrase(
        "The validation loss was lowest at step {step:,} ({loss:.3g}) and has risen {rise:.0%} since.",
        "验证损失在第 {step:,} 步最低（{loss:.3g}），之后上升了 {rise:.0%}。",
    ),
    "training.stopped": Phrase("Training stopped early, at step {step:,}.", "训练在第 {step:,} 步提前停止。"),
    "training.stopped_since": Phrase(
        "Training stopped early, at step {step:,}: {metric} was best at step {best:,} ({value:.4g}) and did not improve in "
        "{validations} validations after it.",
        "训练在第 {step:,} 步提前停止：{metric} 在第 {best:,} 步最好（{value:.4g}），之后 {validations} 次验证都没有改善。",
    ),
    "training.adapter_step": Phrase(
        "The run's adapter is that of step {step:,}, the best one.", "保存的适配器取自最好的第 {step:,} 步。"
    ),
    "training.suggestions": Phrase("What to try next", "下一步可尝试的设置"),
    "training.key": Phrase("key of the recipe", "配方字段"),
    "training.now": Phrase("now", "当前值"),
    "training.try": Phrase("try", "建议值"),
    "training.losses": Phrase("Losses", "损失曲线"),
    "training.step": Phrase("step", "步数"),
    "training.loss": Phrase("loss", "损失"),
    "training.nats": Phrase("nats per token", "nats/token"),
    "training.loss.step": Phrase("training, each step", "训练损失（每步）"),
    "training.loss.sample": Phrase("training, fixed sample", "训练损失（固定样本）"),
    "training.loss.valid": Phrase("validation", "验证损失"),
    "training.mark.best": Phrase("best {metric}: {value:.3g}", "最优{metric}：{value:.3g}"),
    "training.mark.stopped": Phrase("stopped", "停止"),
    "training.described": Phrase(
        "The training loss went from {first:.3g} at step {at:,} to {last:.3g} at step {step:,}.",
        "训练损失从第 {at:,} 步的 {first:.3g} 变为第 {step:,} 步的 {last:.3g}。",
    ),
    "training.described_valid": Phrase(
        "The validation loss was lowest at step {step:,}, {best:.3g}; at the end it is {last:.3g}.",
        "验证损失在第 {step:,} 步最低，为 {best:.3g}；最后为 {last:.3g}。",
    ),
    "training.segments": Phrase("Loss by part of the reply", "回复各部分的损失"),
    "training.segments.note": Phrase(
        "After step {step:,}, nats per token. Accuracies are of single tokens given the right ones before them, and say less "
        "than those of replies.",
        "第 {step:,} 步之后，单位 nats/token。这里的准确率是给定正确前文时的逐 token 准确率，不等同于生成回复的准确率。",
    ),
    "training.segment": Phrase("part", "部分"),
    "training.segment.train": Phrase("training loss", "训练损失"),
    "training.segment.valid": Phrase("validation loss", "验证损失"),
    "training.segment.accuracy": Phrase("tokens right", "token 准确率"),
    "training.segment.label_accuracy": Phrase("labels right", "标签准确率"),
    "training.segment_losses": Phrase("Validation loss by part of the reply", "回复各部分的验证损失"),
    "training.segment.said": Phrase("{name}: {loss:.3g} at step {step:,}.", "{name}：第 {step:,} 步为 {loss:.3g}。"),
    "training.over_steps": Phrase("Learning rate, gradient norm, speed and memory", "学习率、梯度范数、速度与内存"),
    "training.learning_rate": Phrase("learning rate", "学习率"),
    "training.grad_norm": Phrase("gradient norm", "梯度范数"),
    "training.tokens": Phrase("speed", "训练速度"),
    "training.tokens_per_second": Phrase("tokens/s", "token/秒"),
    "training.memory": Phrase("peak memory", "峰值内存"),
    "training.range": Phrase(
        "From {low:.3g} to {high:.3g}; {last:.3g} at the end.", "范围 {low:.3g} 至 {high:.3g}；最后为 {last:.3g}。"
    ),
    # Settings, and how to make the run again.
    "settings.title": Phrase("Settings", "训练配置"),
    "settings.recipe": Phrase("The whole recipe, every default spelled out", "完整配方（含全部默认值）"),
    "settings.environment": Phrase("Environment and versions", "环境与版本"),
    "settings.hashes": Phrase("Hashes of the inputs", "输入文件的哈希"),
    "settings.created": Phrase("started", "开始时间"),
    "settings.finished": Phrase("ended", "结束时间"),
    "settings.status": Phrase("status", "状态"),
    "settings.backend": Phrase("backend", "后端"),
    "settings.reason": Phrase("why this backend", "选择该后端的原因"),
    "settings.device": Phrase("device", "设备"),
    "settings.platform": Phrase("platform", "平台"),
    "settings.begun_from": Phrase("started from the adapter of", "初始适配器来自"),
    "settings.tokens_per_pass": Phrase("positions per forward pass, at most", "每次前向计算的最大 token 数"),
    "settings.base": Phrase("base model's weights", "基座模型权重"),
    "reproduce.title": Phrase("Reproduce", "复现"),
    "reproduce.text": Phrase(
        "The commands that made this run and its evaluations. The same rows (see the hashes), recipe and versions give the "
        "same numbers on the same kind of machine.",
        "生成该模型及其评估的命令。数据（见哈希）、配方与版本相同时，在同类机器上可得到相同的结果。",
    ),
    # Several runs side by side.
    "several.summary": Phrase("Summary", "概要"),
    "several.best": Phrase("{what}: {run} is best with {value}.", "{what}：{run} 最好，为 {value}。"),
    "several.best.equal": Phrase(
        "{what}: {runs} are best, all with {value}.", "{what}：{runs} 并列最好，均为 {value}。"
    ),
    "several.best.alone": Phrase("{what}: {run} has {value}.", "{what}：{run} 为 {value}。"),
    "several.next.better": Phrase(
        "That is significantly better than the next, {next} with {value}: {change}.",
        "显著优于第二名 {next}（{value}）：{change}。",
    ),
    "several.next.no real difference": Phrase(
        "There is no significant difference to the next, {next} with {value}: {change}.",
        "与第二名 {next}（{value}）差异不显著：{change}。",
    ),
    "several.next.too few rows": Phrase(
        "There are too few rows to tell it from the next, {next} with {value}: {change}.",
        "行数太少，无法判断是否优于第二名 {next}（{value}）：{change}。",
    ),
    "several.alike": Phrase(
        "Not significantly different from {run} either: {runs}.", "与 {run} 差异不显著的还有：{runs}。"
    ),
    "several.worse": Phrase("Significantly worse than {run}: {runs}.", "显著差于 {run}：{runs}。"),
    "several.worse.others": Phrase("The {n} others are significantly worse.", "其余 {n} 个显著更差。"),
    "several.not_evaluated": Phrase(
        "Not evaluated, so only settings and losses are shown: {runs}. Evaluate them with `mlxtune evaluate RUN`.",
        "尚未评估、因此只显示配置和损失的模型：{runs}。可运行 `mlxtune evaluate RUN`。",
    ),
    "several.unfinished": Phrase("Training did not finish: {runs}.", "训练未完成：{runs}。"),
    "several.unfinished.one": Phrase("{run} (status: {status})", "{run}（状态：{status}）"),
    "several.table": Phrase("The runs side by side", "各模型一览"),
    "several.table.sorted": Phrase("Sorted by {what}, the best first.", "排序依据：{what}，最好的在前。"),
    "several.table.settings": Phrase(
        "{n} more settings differ: see Settings, training and cost.",
        "另有 {n} 项配置不同，见“配置、训练与成本”。",
        one="1 more setting differs: see Settings, training and cost.",
    ),
    "several.run": Phrase("run", "模型"),
    "several.is_best": Phrase("{value}, best", "{value}，最好"),
    "several.valid_loss": Phrase("validation loss", "验证损失"),
    "several.time": Phrase("training time", "训练时间"),
    "several.chart": Phrase("The metrics that matter, with 95% intervals", "主要指标及 95% 置信区间"),
    "several.chart.one": Phrase("{run} {value}", "{run} {value}"),
    "several.chart.said": Phrase("{what}: {values}.", "{what}：{values}。"),
    # Their metrics, compared.
    "several.compared": Phrase("Metrics compared", "指标对比"),
    "several.compared.over": Phrase(
        "{rows}, the same for all; differences are tested row by row. Intervals in brackets are 95%.",
        "所有模型使用相同的 {rows}，逐行配对检验差异。方括号内为 95% 置信区间。",
    ),
    "several.compared.some": Phrase(
        "Every metric is over the {rows} that all runs were evaluated on; their own evaluations have more: {counts}.",
        "所有指标仅统计全部模型共有的 {rows}；各自的评估行数更多：{counts}。",
    ),
    "several.counted": Phrase("{run} {rows}", "{run} {rows}"),
    "several.decoding.differs": Phrase(
        "Their replies were decoded in different ways, which alone may explain differences: {decodings}.",
        "各模型的解码方式不同，仅此就可能造成差异：{decodings}。",
    ),
    "several.decoding.common": Phrase(
        "Compared are the replies of {decoding} decoding, which all runs have.",
        "比较的是各模型共有的 {decoding} 解码的回复。",
    ),
    "several.named": Phrase("{run}: {what}", "{run}：{what}"),
    "several.judges": Phrase(
        "Ratings of different judges or rubrics cannot be compared: {runs}.",
        "不同评分模型或评分标准的评分不可比较：{runs}。",
    ),
    "several.encoders": Phrase(
        "BERTScore of different models cannot be compared: {runs}.", "不同模型计算的 BERTScore 不可比较：{runs}。"
    ),
    "several.chance": Phrase(
        "{n:,} comparisons were made with each baseline, at the {level:.0%} level: were there no difference anywhere, about {expected:.0f} of "
        "them would still seem significant.",
        "与每个基线各做了 {n:,} 次比较，显著性水平 {level:.0%}：即使完全没有差异，也会约有 {expected:.0f} 次看似显著。",
    ),
    "several.untested": Phrase("{metrics}: shown without a test. {why}", "{metrics}：未做检验。{why}"),
    "several.untested.parts": Phrase(
        "Metrics of the rows whose labels are right, or wrong", "标签正确（或有误）的行上的指标"
    ),
    "several.untested.other_rows": Phrase("These are other rows in each run.", "各模型对应的行不同。"),
    "several.untested.no_direction": Phrase("Neither more nor less of it is better.", "该指标没有好坏方向。"),
    "several.untested.rows": Phrase("The predictions do not hold it row by row.", "预测文件中没有逐行数值。"),
    "several.untested.judge": Phrase(
        "A judge may have rated other rows in each run; `mlxtune compare --judge` has it choose between replies.",
        "评分模型在各模型上评的行可能不同；`mlxtune compare --judge` 可让它在回复之间选择。",
    ),
    "several.baseline": Phrase("Compared with", "对比基线"),
    "several.baseline.only": Phrase(
        "Of so many runs ({n}) only the first is a baseline here; name another one first to compare with it.",
        "模型较多（{n} 个），此处仅以第一个为基线；把其他模型放在首位即可与其比较。",
    ),
    "several.difference": Phrase("difference", "差值"),
    "several.is_baseline": Phrase("baseline", "基线"),
    "several.metrics": Phrase("{field}, compared with {run}", "{field}：与 {run} 对比"),
    "several.all": Phrase("All metrics", "全部指标"),
    "several.all.differences": Phrase("Differences of all metrics to {run}", "全部指标与 {run} 的差值"),
    "several.cell": Phrase("{difference}: {verdict}", "{difference}：{verdict}"),
    "several.recall": Phrase("recall of {label}", "{label} 的召回率"),
    "several.by_count": Phrase(
        "{metric}, rows with {n} labels", "{metric}（{n} 个标签的行）", one="{metric}, rows with 1 label"
    ),
    "several.bucket": Phrase("share of replies: {bucket}", "回复占比：{bucket}"),
    "several.when_right": Phrase("{metric} where labels are right", "{metric}（标签正确的行）"),
    "several.when_wrong": Phrase("{metric} where labels are wrong", "{metric}（标签有误的行）"),
    # Their curves.
    "several.curves": Phrase("Losses and learning rate", "损失与学习率"),
    "several.curves.step": Phrase("step", "步数"),
    "several.curves.epoch": Phrase("epoch", "轮次（epoch）"),
    "several.curves.tokens": Phrase("tokens trained on", "已训练 token 数"),
    "several.curves.by.epoch": Phrase(
        "The runs differ in rows per step, so the curves are over epochs.",
        "各模型每步的数据行数不同，因此曲线按轮次绘制。",
    ),
    "several.curves.by.tokens": Phrase(
        "The runs trained on different data, so the curves are over tokens.",
        "各模型的训练数据不同，因此曲线按 token 数绘制。",
    ),
    "several.curves.valid": Phrase("Validation loss", "验证损失"),
    "several.curves.train": Phrase("Training loss", "训练损失"),
    "several.curves.train.mean": Phrase(
        "Training loss, of long runs the mean over several steps", "训练损失（步数多时取相邻若干步的平均）"
    ),
    "several.curves.rate": Phrase("Learning rate", "学习率"),
    "several.curves.loss": Phrase("loss", "损失"),
    "several.curves.nats": Phrase("nats per token", "nats/token"),
    "several.curves.said": Phrase("{run} from {first:.3g} to {last:.3g}", "{run} 从 {first:.3g} 到 {last:.3g}"),
    "several.curves.at": Phrase("{run} {last:.3g}", "{run} {last:.3g}"),
    "several.curves.some": Phrase(
        "Shown are the {shown} runs with the lowest validation loss of {n}.",
        "共 {n} 个模型，图中显示验证损失最低的 {shown} 个。",
    ),
    "several.curves.first": Phrase(
        "Shown are the first {shown} runs of {n}.", "共 {n} 个模型，图中显示前 {shown} 个。"
    ),
    "several.curves.none": Phrase("Without recorded steps: {runs}.", "没有训练记录：{runs}。"),
    # What is known of them besides their metrics.
    "several.facts": Phrase("Settings, training and cost", "配置、训练与成本"),
    "several.facts.settings": Phrase("Settings that differ", "不同的配置"),
    "several.facts.same": Phrase("No setting differs.", "所有配置相同。"),
    "several.facts.setting": Phrase("setting", "配置项"),
    "several.facts.training": Phrase("Training", "训练"),
    "several.facts.cost": Phrase("Cost", "成本"),
    "several.facts.fact": Phrase("value", "项目"),
    "fact.trained with": Phrase("trained with", "训练后端"),
    "fact.trained on": Phrase("trained on", "训练设备"),
    "fact.mlxtune": Phrase("mlxtune", "mlxtune 版本"),
    "fact.begun from": Phrase("started from", "初始适配器"),
    "fact.evaluated with": Phrase("evaluated with", "评估后端"),
    "fact.evaluation judged by": Phrase("rated by", "评分模型"),
    "fact.evaluated with --set": Phrase("evaluated with --set", "评估时的 --set"),
    "fact.status": Phrase("status", "状态"),
    "fact.steps": Phrase("steps", "训练步数"),
    "fact.steps planned": Phrase("steps planned", "计划步数"),
    "fact.adapter of step": Phrase("adapter of step", "适配器取自第几步"),
    "fact.train loss": Phrase("training loss", "训练损失"),
    "fact.valid loss": Phrase("validation loss", "验证损失"),
    "fact.valid/train": Phrase("validation / training loss", "验证/训练损失比"),
    "fact.valid/train at the end": Phrase("validation / training loss at the end", "结束时验证/训练损失比"),
    "fact.best metric": Phrase("best checkpoint by", "最佳检查点指标"),
    "fact.best value": Phrase("its value", "最佳检查点的值"),
    "fact.best step": Phrase("best checkpoint at step", "最佳检查点步数"),
    "fact.diagnosis": Phrase("diagnosis", "诊断"),
    "fact.stopped": Phrase("stopped", "提前停止"),
    "fact.training seconds": Phrase("training, seconds", "训练时间（秒）"),
    "fact.training tokens/s": Phrase("training, tokens/s", "训练速度（token/秒）"),
    "fact.training peak memory, GB": Phrase("training, peak memory, GB", "训练峰值内存（GB）"),
    "fact.trainable parameters": Phrase("trainable parameters", "可训练参数"),
    "fact.adapter bytes": Phrase("adapter size", "适配器大小"),
    "fact.evaluation seconds a row": Phrase("evaluation, seconds a row", "评估时间（秒/行）"),
    "fact.evaluation peak memory, GB": Phrase("evaluation, peak memory, GB", "评估峰值内存（GB）"),
    "diagnosis.healthy": Phrase("healthy", "正常"),
    "diagnosis.over-fitting": Phrase("over-fitting", "过拟合"),
    "diagnosis.under-fitting": Phrase("under-fitting", "欠拟合"),
    "diagnosis.diverging": Phrase("diverging", "发散"),
    "diagnosis.too few validations to tell": Phrase("too few validations to tell", "验证次数太少，无法判断"),
    # Metric against cost.
    "several.cost": Phrase("Metric against cost", "指标与成本"),
    "several.cost.text": Phrase(
        "Better runs are higher, cheaper ones further left. Bars are 95% intervals.",
        "越靠上越好，越靠左成本越低。竖线为 95% 置信区间。",
    ),
    "several.cost.others": Phrase("Against other costs", "与其他成本"),
    "several.cost.metric": Phrase("Metric", "指标"),
    "several.cost.chart": Phrase("{what} by {cost}", "{what}与{cost}"),
    "several.cost.point": Phrase("{run}: {value} at {cost}", "{run}：{value}（{cost}）"),
    "cost.training seconds": Phrase("training time", "训练时间"),
    "cost.training seconds.unit": Phrase("s", "秒"),
    "cost.evaluation seconds a row": Phrase("evaluation time per row", "每行评估时间"),
    "cost.evaluation seconds a row.unit": Phrase("s", "秒"),
    "cost.training peak memory, GB": Phrase("peak memory of training", "训练峰值内存"),
    "cost.training peak memory, GB.unit": Phrase("GB", "GB"),
    "cost.adapter bytes": Phrase("adapter size", "适配器大小"),
    "cost.adapter bytes.unit": Phrase("MB", "MB"),
    # Rows on which they disagree.
    "several.rows": Phrase("Rows on which runs disagree", "模型间不一致的行"),
    "several.rows.said": Phrase(
        "{field}: in {rows} rows some runs are right and some wrong.", "{field}：有 {rows} 行各模型对错不一。"
    ),
    "several.rows.none": Phrase("{field}: the same rows are right in every run.", "{field}：各模型答对的行完全相同。"),
    "several.rows.table": Phrase("Rows by which runs have them right", "按答对的模型统计行数"),
    "several.rows.all": Phrase("all right", "全部答对"),
    "several.rows.some": Phrase("some right", "部分答对"),
    "several.rows.no": Phrase("none right", "全部答错"),
    "several.rows.only": Phrase("only {run} right", "仅 {run} 答对"),
    "several.rows.systems": Phrase(
        "Predictions of the {shown} best runs of {n} are shown.", "共 {n} 个模型，仅显示最好的 {shown} 个的预测。"
    ),
    # Each of them.
    "several.each": Phrase("Each run", "各模型详情"),
    # The report as Markdown.
    "markdown.metric": Phrase("metric", "指标"),
    "markdown.value": Phrase("value", "数值"),
    "markdown.after": Phrase("after tuning", "微调后"),
    "markdown.before": Phrase("before", "微调前"),
    "markdown.change": Phrase("change", "变化"),
    "markdown.predictions": Phrase(
        "The {shown:,} most wrong of {n:,} predictions; the page (`mlxtune report`) has all.",
        "以下为 {n:,} 条预测中错误最多的 {shown:,} 条；完整列表见网页版报告（`mlxtune report`）。",
        one="The only prediction; the page (`mlxtune report`) has it whole.",
    ),
    "markdown.row": Phrase("row", "行"),
    "markdown.input": Phrase("text", "文本"),
    "markdown.expected": Phrase("{field}, expected", "{field}（标准答案）"),
    "markdown.predicted": Phrase("{field}, predicted", "{field}（预测）"),
}


class Words:
    """The words of one language.

    Args:
        language: "en" or "zh".
    """

    def __init__(self, language: str) -> None:
        self.language = language

    def __call__(self, key: str, **values: Any) -> str:
        """A phrase with its placeholders filled in, by `str.format`: `{share:.1%}` works."""
        found = PHRASES[key]
        singular = self.language == "en" and values.get("n") == 1
        phrase: str = (found.one if singular else "") or getattr(found, self.language)
        return phrase.format(**values) if values else phrase
