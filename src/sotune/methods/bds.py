"""BDS: the rows' weights are learned while the model is trained, and that model is the output.

Hu et al., *Adaptive defense against harmful fine-tuning via Bayesian data scheduler* (NeurIPS 2025,
https://github.com/Egg-Hu/Bayesian-Data-Scheduler), the scalar scheduler; see `sotune.training.bilevel`: every step
learns from a batch of the safe anchor and one of the rows with weights ``n·softmax(z)``, while z descends on the
weighted loss.

Released code has no Langevin noise, so that its posterior is a maximum found by Adam, and never optimizes the neural
scheduler; its prior term has the wrong sign and is off. Here is the scalar scheduler, likewise a maximum. It runs 20
epochs with Adam at 5e-3 on the logits; in a budget of fewer epochs the logits would hardly move, so that their rate is
scaled by 20 over the number of epochs (ours). Learning rate, schedule and steps of the model are the budget's. Each
step costs twice one of plain training, and the anchor is trained on, which filters are not allowed.
"""

from __future__ import annotations

import time

from sotune import processes, training
from sotune.methods.inputs import TrainInputs
from sotune.methods.method import Method
from sotune.training import TrainResult
from sotune.training.progress import count_steps

_ADAM_RATE, _EPOCHS = 5e-3, 20
_INITIAL_LOGIT = 0.1


def train(inputs: TrainInputs) -> TrainResult:
    """Trains model and weights together, in one process: its loop is no Trainer's.

    Raises:
        DataError: One of the sets has no row to train on.
        SotuneError: Training diverged.
    """
    return processes.on_main(lambda: _train(inputs))


def _train(inputs: TrainInputs) -> TrainResult:
    started = time.perf_counter()
    settings = inputs.tools.training
    n_steps = count_steps(len(inputs.records), settings)
    per_epoch = count_steps(len(inputs.records), settings.replace(max_steps=None, num_train_epochs=1))
    result = training.train_bilevel(
        inputs.records,
        inputs.loss_weights,
        inputs.safe_anchor,
        model=inputs.tools.model,
        training=settings,
        settings=training.BilevelSettings(
            n_steps=n_steps,
            trusted_strength=lambda _: 1.0,
            downstream_strength=lambda _: 1.0,
            selector="adam",
            selector_learning_rate=_ADAM_RATE * _EPOCHS * per_epoch / n_steps,
            initial_logit=_INITIAL_LOGIT,
            schedule="cosine",
            clip=settings.max_grad_norm,
        ),
        on_step=inputs.on_step,
    )
    return training.hand_over(
        result.model,
        result.rows,
        result.steps,
        renderer=inputs.tools.renderer,
        base=inputs.tools.model,
        settings=settings,
        output_dir=inputs.output_dir,
        seconds=time.perf_counter() - started,
    )


METHODS = (
    Method(
        "bds",
        "BDS",
        citation="Hu et al., Adaptive defense against harmful fine-tuning via Bayesian data scheduler (NeurIPS 2025)",
        link="https://github.com/Egg-Hu/Bayesian-Data-Scheduler",
        trainer=train,
    ),
)
