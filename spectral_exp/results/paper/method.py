"""The method section: the mathematics of exactly those components that the compared runs use, with their settings.

Sources of the formulas are the modules that implement them: `models`, `optim`, `losses`, `evaluation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from spectral_exp.results.document.model import Block, Code, Equation, Heading, Paragraph, Text, join_texts
from spectral_exp.results.document.prose import prose
from spectral_exp.results.paper.material import Material
from spectral_exp.runs.parts import PARTS
from spectral_exp.runs.run import Run

_TITLES = {
    "embedding": "Embedding",
    "attention": "Attention",
    "mlp": "Feed-forward layer",
    "optimizer": "Optimizer",
    "loss": "Training loss",
}

Description = Callable[[Material, Sequence[Run]], tuple[Block, ...]]


def method(material: Material) -> tuple[Block, ...]:
    """The whole section."""
    blocks: list[Block] = [Heading("Method"), *_skeleton(material)]
    for part in PARTS:
        choices = material.choices_of(part)
        unknown = [run for run in material.runs if part not in run.parts]
        blocks.append(Heading(_TITLES[part], 2))
        told: dict[Description, list[Run]] = {}
        for choice in choices:
            describe = _DESCRIPTIONS.get((part, choice)) or _undescribed(part, choice)
            told.setdefault(describe, []).extend(material.users(part, choice))
        for describe, runs in told.items():
            blocks += describe(material, runs)
        if unknown:
            template = f"For {{{{labels}}}} the {_TITLES[part].lower()} could not be told from the recorded settings."
            blocks.append(Paragraph(prose(template, labels=material.labels(unknown)), aside=True))
    return tuple(blocks)


def _undescribed(part: str, choice: str) -> Description:
    def describe(material: Material, runs: Sequence[Run]) -> tuple[Block, ...]:
        target = material.setting(f"model.{part}._target_" if part in PARTS[:3] else f"{part}._target_", runs)
        template = "There is no description of the choice {{choice}} (class {{target}}): the author has to write it."
        return (Paragraph(prose(template, choice=Code(choice), target=target), aside=True),)

    return describe


def _skeleton(material: Material) -> tuple[Block, ...]:
    runs = material.runs
    tied = {run.settings.get("model.tie_weights") for run in runs}
    head = "; the head shares the token table" if tied == {True} else "" if True in tied else ", a matrix of its own"
    return (
        Paragraph(
            prose(
                "All models are causal language models of the transformer family [@vaswani2017] with layer "
                "normalisation in front of each sub-layer [@ba2016; @xiong2020]. $C$ is the model width, $H$ the "
                "number of heads, $D = C/H$ the head size, $V$ the vocabulary and $T$ the context length. From token "
                "$s_t$ at position $t$ the embedding makes a vector $x_t$. Each of the layers then computes"
            )
        ),
        Equation(
            r"h = x + \mathrm{Attention}(\mathrm{LN}(x)), \quad x' = h + \mathrm{MLP}(\mathrm{LN}(h)),", "eq:block"
        ),
        Paragraph(
            prose(
                f"and the logits are $W_o\\, \\mathrm{{LN}}(x)$ with $W_o \\in \\mathbb{{R}}^{{V \\times C}}${head}. "
                "Linear maps and tables start from a normal distribution with standard deviation 0.02, those that "
                "write into the residual stream from one smaller by the root of twice the number of layers "
                "[@radford2019]. {{biases}} Sizes are in [#tab:configurations] and [#tab:settings]. "
                "[#tab:configurations] says which configuration uses which of the parts below.",
                biases=_cases(material, runs, "model.bias", _biases),
            )
        ),
    )


def _biases(material: Material, runs: Sequence[Run]) -> Text:
    if runs[0].settings.get("model.bias"):
        return prose("Linear maps, but for the head, and normalisations have biases, which start at zero")
    return prose("Neither linear maps nor normalisations have biases")


# --- embedding -------------------------------------------------------------------------------------------------------


def _standard(material: Material, runs: Sequence[Run]) -> tuple[Block, ...]:
    with_table = [run for run in runs if run.parts.get("attention") in ("dot_product", "interference")]
    if len(with_table) == len(runs):
        text = prose(
            "*Standard*: $x_t = E_{s_t} + P_t$, with a learned token table $E$ and a learned position table $P$."
        )
    elif with_table:
        text = prose(
            "*Standard*: $x_t = E_{s_t}$ with a learned token table $E$. Where attention carries no position itself "
            "({{labels}}) a learned position table $P$ is added: $x_t = E_{s_t} + P_t$.",
            labels=material.labels(with_table),
        )
    else:
        text = prose("*Standard*: $x_t = E_{s_t}$ with a learned token table $E$; attention carries the position.")
    return (Paragraph(text),)


def _wave(material: Material, runs: Sequence[Run]) -> tuple[Block, ...]:
    return (
        Paragraph(
            prose(
                "*Wave packets*: token $v$ has $W$ waves with learned base frequencies $f_{vw}$, phases "
                "$\\varphi_{vw}$ and amplitudes $a_{vwm}$ of $M$ harmonics; a learned rate $\\gamma_w$ per wave "
                "brings in the position. No position table is used. At position $t$"
            )
        ),
        Equation(
            r"\theta_{wm}(t) = 2\pi m f_{vw} + \varphi_{vw} + \gamma_w t, \quad "
            r"z_t = [a_{vwm} \sin\theta_{wm}(t),\; a_{vwm} \cos\theta_{wm}(t)] \in \mathbb{R}^{2WM},",
            "eq:wave",
        ),
        Equation(r"x_t = \mathrm{LN}\left(r\, W_e z_t + (1 - r)\, E_{s_t}\right).", "eq:blend"),
        Paragraph(
            (
                *prose(
                    "Here $W$ = {{waves}} and $M$ = {{harmonics}}. ",
                    waves=_either(material, runs, "model.embedding.n_wave", "model.n_wave"),
                    harmonics=_either(material, runs, "model.embedding.n_harmonic", "model.n_harmonic"),
                ),
                *_cases(material, runs, "model.embedding.wave_ratio", _wave_ratio),
                *prose(
                    " At the start, the frequencies of a token lie evenly between 0.5 and 5 with normal noise of "
                    "standard deviation 0.1, the phases are uniform in $[0, 2\\pi)$, the amplitudes normal with "
                    "standard deviation $0.5/\\sqrt{MW}$, the rates normal with standard deviation 0.1 and $W_e$ "
                    "normal with standard deviation 0.04."
                ),
            )
        ),
    )


def _wave_ratio(material: Material, runs: Sequence[Run]) -> Text:
    start = material.setting("model.embedding.ratio_start", runs)
    if runs[0].settings.get("model.embedding.wave_ratio") == "scheduled":
        return prose(
            "The share $r$ of the waves follows a schedule from {{start}} to {{end}} over the run",
            start=start,
            end=material.setting("model.embedding.ratio_end", runs),
        )
    return prose("The share $r = \\sigma(\\chi)$ of the waves is learned and starts at {{start}}", start=start)


# --- attention -------------------------------------------------------------------------------------------------------

_MIX = r"y_i = \sum_{j \le i} \operatorname{softmax}_j(s_{ij})\, v_j"


def _dot_product(material: Material, runs: Sequence[Run]) -> tuple[Block, ...]:
    return (
        Paragraph(
            prose("*Dot product* [@vaswani2017]: in each head queries $q$, keys $k$ and values $v$ are linear in $x$;")
        ),
        Equation(_MIX + r", \quad s_{ij} = \frac{\langle q_i, k_j \rangle}{\sqrt{D}}.", "eq:dot"),
    )


def _rotary(material: Material, runs: Sequence[Run]) -> tuple[Block, ...]:
    return (
        Paragraph(
            prose(
                "*Rotary* [@su2021]: the dot product of queries and keys that are turned by their position, with no "
                "position table;"
            )
        ),
        Equation(
            r"s_{ij} = \frac{\langle R_i q_i, R_j k_j \rangle}{\sqrt{D}} = "
            r"\frac{\langle q_i, R_{j-i} k_j \rangle}{\sqrt{D}},",
            "eq:rotary",
        ),
        Paragraph(
            prose(
                "where $R_t$ rotates the channel pairs $(d, d + D/2)$ by the angles $t \\cdot 10000^{-2d/D}$. Softmax "
                "and values as in dot-product attention."
            )
        ),
    )


def _interference(material: Material, runs: Sequence[Run]) -> tuple[Block, ...]:
    return (
        Paragraph(
            prose(
                "*Interference*: queries and keys are $W$ = {{waves}} waves per head, shifted by a learned offset "
                "$\\delta$ per head and wave and brought to unit length;",
                waves=_either(material, runs, "model.attention.n_wave", "model.n_wave"),
            )
        ),
        Equation(
            r"s_{ij} = \tau\, \langle \tilde{q}_i, \tilde{k}_j \rangle, \quad "
            r"\tilde{q}_i = \frac{q_i + \delta}{\lVert q_i + \delta \rVert}, \quad "
            r"\tilde{k}_j = \frac{k_j + \delta}{\lVert k_j + \delta \rVert},",
            "eq:interference",
        ),
        Paragraph(
            prose(
                "with a temperature $\\tau$ that is learned per head and starts at $\\sqrt{W}$, then softmax over $j "
                "\\le i$."
            )
        ),
    )


def _phasor(material: Material, runs: Sequence[Run]) -> tuple[Block, ...]:
    return (
        Paragraph(
            prose(
                "*Phasor*: each query and key consists of $W$ = {{waves}} amplitudes $A \\ge 0$ (a softplus of a "
                "linear map) and phases $p$ (linear in $x$) per head. Position $t$ turns each phase by $\\omega_w t$;",
                waves=_either(material, runs, "model.attention.n_wave", "model.n_wave"),
            )
        ),
        Equation(
            r"s_{ij} = \frac{\tau}{\sqrt{W}} \sum_{w=1}^{W} A_{iw} A'_{jw} \cos\left(p_{iw} + \omega_w i - p'_{jw} - "
            r"\omega_w j\right),",
            "eq:phasor",
        ),
        Paragraph(
            prose(
                "with $\\tau$ learned per head from 1 and rates $\\omega_w$ learned per head and wave from "
                "$10000^{-w/W}$, then softmax over $j \\le i$. This is a dot product of the $2W$ features $A\\cos p$, "
                "$A\\sin p$; no position table is used."
            )
        ),
    )


def _pure_wave(material: Material, runs: Sequence[Run]) -> tuple[Block, ...]:
    return (
        Paragraph(
            prose(
                "*Pure wave* attention has no softmax [@katharopoulos2020]. Queries and keys are $W$ = {{waves}} waves "
                "per head, whose phases $p$ are linear in $x$; with $\\phi(u) = \\mathrm{elu}(u) + 1$",
                waves=_either(material, runs, "model.attention.n_wave", "model.n_wave"),
            )
        ),
        Equation(
            r"y_i = \frac{\sum_{j \le i} \langle \phi(\tilde{q}_i), \phi(\tilde{k}_j) \rangle\, v_j}"
            r"{\sum_{j \le i} \langle \phi(\tilde{q}_i), \phi(\tilde{k}_j) \rangle}, \quad "
            r"\tilde{q}_i = \ell\, \frac{q_i}{\lVert q_i \rVert}, \quad q_{iw} = \sin(f_{iw}\, i + p_{iw}),",
            "eq:pure",
        ),
        Paragraph(
            prose(
                "and $\\tilde{k}$ likewise. {{frequencies}} {{length}} No position table is used. The sums are "
                "computed in {{mode}} mode; both modes compute the same function.",
                frequencies=_cases(material, runs, "model.attention.frequencies", _frequencies),
                length=_cases(material, runs, "model.attention.feature_length", _feature_length),
                mode=material.setting("model.attention.mode", runs),
            )
        ),
    )


def _frequencies(material: Material, runs: Sequence[Run]) -> Text:
    if runs[0].settings.get("model.attention.frequencies") == "learned":
        return prose(
            "The frequencies $f_{iw} = \\omega_w$ are the same for queries and keys of all tokens, learned per head "
            "and wave from $10000^{-w/W}$"
        )
    return prose("The frequencies $f_{iw}$, of queries and of keys, are linear in $x$ too")


def _feature_length(material: Material, runs: Sequence[Run]) -> Text:
    if runs[0].settings.get("model.attention.feature_length") is None:
        return prose("The length is $\\ell = W^{1/4}$")
    return prose("The length is $\\ell$ = {{length}}", length=material.setting("model.attention.feature_length", runs))


# --- the rest --------------------------------------------------------------------------------------------------------


def _gelu(material: Material, runs: Sequence[Run]) -> tuple[Block, ...]:
    return (
        Paragraph(
            prose(
                "*GELU*: $\\mathrm{MLP}(x) = W_2\\, g(W_1 x)$ with $g(h) = \\mathrm{gelu}(h)$ [@hendrycks2016]. "
                "{{width}}",
                width=_hidden(material, runs),
            )
        ),
    )


def _resonance(material: Material, runs: Sequence[Run]) -> tuple[Block, ...]:
    return (
        Paragraph(
            prose(
                "*Resonance*: $\\mathrm{MLP}(x) = W_2\\, g(W_1 x)$ with $g(h) = \\mathrm{gelu}(h) + 0.1 \\sin h$. "
                "{{width}}",
                width=_hidden(material, runs),
            )
        ),
    )


def _hidden(material: Material, runs: Sequence[Run]) -> Text:
    return _cases(material, runs, "model.mlp.n_hidden", _hidden_layer)


def _hidden_layer(material: Material, runs: Sequence[Run]) -> Text:
    adjusted = ", before its adjustment ([#tab:configurations])" if any(matched_to(run) for run in runs) else ""
    if runs[0].settings.get("model.mlp.n_hidden") is not None:
        template = "The hidden layer has {{channels}} channels" + adjusted
        return prose(template, channels=material.setting("model.mlp.n_hidden", runs))
    template = "The hidden layer has {{expansion}} times the model width" + adjusted
    return prose(template, expansion=material.setting("model.mlp.expansion", runs))


def matched_to(run: Run) -> str:
    """The stack to whose number of parameters a run was matched, by the override `match=`; empty for none."""
    for override in run.record.get("overrides") or ():
        name, _, value = str(override).lstrip("+").partition("=")
        if name == "match" and value not in ("none", "null", ""):
            return value
    return ""


def _adamw(material: Material, runs: Sequence[Run]) -> tuple[Block, ...]:
    return (
        Paragraph(
            prose(
                "*AdamW* [@loshchilov2019]: from the gradient $g$ the means $m \\leftarrow \\beta_1 m + (1 - "
                "\\beta_1) g$ and $v \\leftarrow \\beta_2 v + (1 - \\beta_2) g^2$, corrected for their start at zero, "
                "give"
            )
        ),
        Equation(
            r"U = \frac{\hat{m}}{\sqrt{\hat{v}} + \epsilon}, \quad P \leftarrow (1 - \eta \lambda) P - \eta U,",
            "eq:adamw",
        ),
        Paragraph(
            prose(
                "with $(\\beta_1, \\beta_2)$ = ({{betas}}), $\\epsilon$ = {{eps}}, weight decay $\\lambda$ = "
                "{{decay}} and peak learning rate {{rate}}. Normalisations, biases and the parameters of waves are "
                "not decayed.",
                betas=material.setting("optimizer.betas", runs),
                eps=material.setting("optimizer.eps", runs),
                decay=material.setting("optimizer.weight_decay", runs),
                rate=material.setting("optimizer.learning_rate", runs),
            )
        ),
    )


def _rgd(material: Material, runs: Sequence[Run]) -> tuple[Block, ...]:
    return (
        Paragraph(
            prose(
                "*Resonant gradient descent* (RGD) is AdamW [@loshchilov2019] whose direction $U = "
                "\\hat{m}/(\\sqrt{\\hat{v}} + \\epsilon)$ passes a filter in the frequency domain. For a parameter "
                "$P$ of two or more dimensions, with $\\mathcal{F}$ the two-dimensional real Fourier transform,"
            )
        ),
        Equation(
            r"\rho = \sqrt{\frac{\lvert \mathcal{F}P \rvert}{\max \lvert \mathcal{F}P \rvert} \cdot "
            r"\frac{\lvert \mathcal{F}U \rvert}{\max \lvert \mathcal{F}U \rvert}}, \quad "
            r"P \leftarrow (1 - \eta \lambda) P - \eta\, \mathcal{F}^{-1}\left((\alpha \rho + 1 - \alpha)\, "
            r"\mathcal{F}U\right),",
            "eq:rgd",
        ),
        Paragraph(
            prose(
                "with $\\alpha$ growing linearly to {{strength}} over the first {{warmup}} steps. Parameters of fewer "
                "dimensions take $U$ itself. Token tables and the head are filtered as the setting `gate_embeddings` "
                "says: {{gate}}. {{every}} $(\\beta_1, \\beta_2)$ = ({{betas}}), $\\epsilon$ = {{eps}}, $\\lambda$ = "
                "{{decay}}, peak learning rate {{rate}}. Since $\\rho \\le 1$, the filter also shortens the update.",
                strength=material.setting("optimizer.resonance_strength", runs),
                warmup=material.setting("optimizer.warmup_steps", runs),
                gate=material.setting("optimizer.gate_embeddings", runs),
                every=_cases(material, runs, "optimizer.gate_every", _gate_every),
                betas=material.setting("optimizer.betas", runs),
                eps=material.setting("optimizer.eps", runs),
                decay=material.setting("optimizer.weight_decay", runs),
                rate=material.setting("optimizer.learning_rate", runs),
            )
        ),
    )


def _gate_every(material: Material, runs: Sequence[Run]) -> Text:
    if runs[0].settings.get("optimizer.gate_every", 1) == 1:
        return prose("Every step is filtered")
    template = "What passes the filter is summed up over {{steps}} steps and filtered once"
    return prose(template, steps=material.setting("optimizer.gate_every", runs))


def _cross_entropy(material: Material, runs: Sequence[Run]) -> tuple[Block, ...]:
    return (
        Paragraph(prose("*Cross-entropy*: the mean over all tokens of a batch,")),
        Equation(r"L_{\mathrm{CE}} = -\frac{1}{N} \sum_{t} \log \operatorname{softmax}(\ell_t)_{y_t}.", "eq:ce"),
    )


def _qfe(material: Material, runs: Sequence[Run]) -> tuple[Block, ...]:
    vocabularies = [v for run in runs if isinstance(v := run.record.get("dataset", {}).get("vocab_size"), int)]
    projected = any(
        isinstance(size := run.settings.get("loss.projection_dim"), int) and max(vocabularies, default=0) > size
        for run in runs
    )
    sketch = (
        prose(
            " The vocabulary is first projected to {{size}} dimensions by one fixed count sketch [@charikar2002].",
            size=material.setting("loss.projection_dim", runs),
        )
        if projected
        else ()
    )
    return (
        Paragraph(
            prose(
                "*Quantum field entanglement* (QFE) adds a coherence term to the cross-entropy. With the predicted "
                "probabilities $p$ (softmax at temperature {{temperature}}) and the one-hot targets $y$ as signals "
                "along the sequence, and $\\hat{p}$, $\\hat{y}$ their real Fourier transforms,",
                temperature=material.setting("loss.temperature", runs),
            )
        ),
        Equation(
            r"L = L_{\mathrm{CE}} + \lambda \cdot \operatorname{mean}\left(\lvert \hat{p} \rvert \lvert \hat{y} \rvert "
            r"\left(1 - \cos(\operatorname{arg} \hat{p} - \operatorname{arg} \hat{y})\right)\right),",
            "eq:qfe",
        ),
        Paragraph(
            (
                *prose(
                    "the mean over those frequencies at which both magnitudes exceed {{threshold}}, with $\\lambda$ = "
                    "{{weight}}.",
                    threshold=material.setting("loss.amplitude_threshold", runs),
                    weight=material.setting("loss.coherence_weight", runs),
                ),
                *sketch,
                *prose(" Validation always reports the plain cross-entropy."),
            )
        ),
    )


def _cases(
    material: Material, runs: Sequence[Run], setting: str, say: Callable[[Material, Sequence[Run]], Text]
) -> Text:
    """What `say` makes of the runs: one sentence, or where the setting differs one a value, each with its users."""
    by_value: dict[str, list[Run]] = {}
    for run in runs:
        by_value.setdefault(repr(run.settings.get(setting)), []).append(run)
    told: dict[Text, list[Run]] = {}  # what a run leaves out it may share with one that spells out the default
    for users in by_value.values():
        told.setdefault(say(material, users), []).extend(users)
    if len(told) == 1:
        return (*next(iter(told)), ".")
    sentences = [prose("{{words}} ({{labels}}).", words=w, labels=material.labels(u)) for w, u in told.items()]
    return join_texts(sentences, between=" ", last=" ")


def _either(material: Material, runs: Sequence[Run], *names: str) -> Text:
    """The first of several settings that any run has."""
    for name in names:
        if any(name in run.settings for run in runs):
            return material.setting(name, runs)
    return material.setting(names[0], runs)


_DESCRIPTIONS: dict[tuple[str, str], Description] = {
    ("embedding", "standard"): _standard,
    ("embedding", "wave"): _wave,
    ("attention", "dot_product"): _dot_product,
    ("attention", "rotary"): _rotary,
    ("attention", "interference"): _interference,
    ("attention", "phasor"): _phasor,
    ("attention", "pure_wave"): _pure_wave,
    ("attention", "pure_wave_linear"): _pure_wave,
    ("mlp", "gelu"): _gelu,
    ("mlp", "resonance"): _resonance,
    ("optimizer", "adamw"): _adamw,
    ("optimizer", "rgd"): _rgd,
    ("loss", "cross_entropy"): _cross_entropy,
    ("loss", "qfe"): _qfe,
}
