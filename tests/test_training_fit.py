"""fit: what it logs, evaluates and keeps, and that a resumed run is the same run."""

import os
import random
import signal
import threading

import pytest
import torch
from torch import nn

from run_folders import records, untimed
from tiny_fit import (
    CLASSES,
    IMAGES,
    Setup,
    Tiny,
    assert_same_run,
    batches_of,
    config_of,
    evaluator,
    images,
    run,
    setup,
)
from vitral.errors import ConfigError, DataError, InterruptedRun, WeightsError
from vitral.tasks.classification import Supervised, SupervisedConfig
from vitral.training import (
    CheckpointStore,
    LoopConfig,
    ScheduleConfig,
    lr_at,
)
from vitral.training.signals import StopSignals

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_log_and_the_result(tmp_path):
    best_steps = []

    def on_best(model, step):
        assert not model.training
        best_steps.append(step)

    result = run(tmp_path, on_best=on_best)
    log = records(tmp_path)
    train = [record for record in log if record["event"] == "train"]
    evals = [record for record in log if record["event"] == "eval"]
    assert [record["step"] for record in train] == [4, 8, 12, 16, 20, 23]
    assert [record["step"] for record in evals] == [5, 10, 15, 20, 23]
    assert [record["epoch"] for record in train][:2] == [round(4 / 7, 6), 1 + 0.142857]
    assert set(train[0]) == {
        "event",
        "step",
        "epoch",
        "loss",
        "accuracy",
        "grad_norm",
        "lr",
        "images_per_second",
        "data_wait",
    }
    assert all(0 <= record["data_wait"] <= 1 for record in train)
    # The fourth update has index 3, and the warm-up ends at 2.
    cosine = ScheduleConfig(warmup=2)
    assert train[0]["lr"] == lr_at(3, 23, 0.02, cosine)
    best = max(evals, key=lambda record: (record["accuracy"], record["step"]))
    assert result.best_metric == best["accuracy"]
    assert result.best_step == best["step"] == best_steps[-1]
    assert result.step == 23
    assert not result.stopped_early
    assert result.notes == ()
    assert evals[0]["split"] == "val"


def test_logged_loss_is_the_mean_since_the_last_line(tmp_path):
    run(tmp_path / "coarse", config=config_of(log_every=4))
    run(tmp_path / "fine", config=config_of(log_every=1))
    fine = {r["step"]: r["loss"] for r in records(tmp_path / "fine") if "lr" in r}
    coarse = {r["step"]: r["loss"] for r in records(tmp_path / "coarse") if "lr" in r}
    assert coarse[8] == pytest.approx(sum(fine[s] for s in (5, 6, 7, 8)) / 4)
    assert coarse[23] == pytest.approx(sum(fine[s] for s in (21, 22, 23)) / 3)


def test_checkpoints_that_stay(tmp_path):
    result = run(tmp_path, config=config_of(keep=2))
    steps = CheckpointStore(tmp_path / "checkpoints").steps()
    assert set(steps) - {result.best_step} == {21, 23} - {result.best_step}


class Crash(BaseException):
    """Stands for a kill: nothing is tidied up behind it."""


def crashing(batches, after):
    count = {"left": after}

    def limited(epoch, start):
        for batch in batches(epoch, start):
            count["left"] -= 1
            if count["left"] < 0:
                raise Crash
            yield batch

    return limited


@pytest.mark.parametrize("kind", ["adamw", "sgd", "adafactor"])
def test_a_crashed_run_resumes_bit_equal(tmp_path, kind):
    run(tmp_path / "whole", kind=kind)
    generator = random.Random(4)
    crashes = 0
    while True:
        after = generator.randrange(1, 12)
        torch.manual_seed(generator.randrange(1000))  # a new process has another state
        batches = crashing(batches_of(images()), after)
        try:
            run(tmp_path / "broken", kind=kind, batches=batches, resume=True)
            break
        except Crash:
            crashes += 1
    assert crashes >= 3
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_resume_falls_back_behind_a_damaged_checkpoint(tmp_path):
    run(tmp_path / "whole")
    broken = tmp_path / "broken"
    with pytest.raises(Crash):
        run(broken, batches=crashing(batches_of(images()), 14))
    store = CheckpointStore(broken / "checkpoints")
    assert store.steps()[-2:] == (9, 12)
    os.truncate(store.path(12) / "model.safetensors", 100)
    result = run(broken, resume=True)
    assert "step-00000012 is skipped" in result.notes[0]
    (note,) = (r for r in untimed(broken) if r["event"] == "note")
    assert note["step"] == 9
    whole = CheckpointStore(tmp_path / "whole" / "checkpoints").path(23)
    for name in ("model", "ema", "optimizer"):
        path = f"{name}.safetensors"
        assert (store.path(23) / path).read_bytes() == (whole / path).read_bytes()


def test_comparison_would_see_one_changed_batch(tmp_path):
    """The control for the tests above: another order of the data is another run."""
    run(tmp_path / "whole")
    run(tmp_path / "other", batches=batches_of(images(), seed=1))
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "whole", tmp_path / "other")


def test_dropout_depends_on_the_seed(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "other", seed=12)
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "whole", tmp_path / "other")


def test_every_image_once_an_epoch_over_crashes(tmp_path):
    seen: list[tuple[str, ...]] = []
    with pytest.raises(Crash):
        run(tmp_path, batches=crashing(batches_of(images(), seen=seen), 11))
    del seen[9:]  # the last checkpoint is that of step 9
    run(tmp_path, batches=batches_of(images(), seen=seen), resume=True)
    for epoch in range(3):
        ids = [name for batch in seen[epoch * 7 : epoch * 7 + 7] for name in batch]
        assert sorted(ids) == sorted(f"image/{index}" for index in range(IMAGES))


def test_a_finished_run_returns_at_once(tmp_path):
    first = run(tmp_path)
    before = untimed(tmp_path)

    def never(epoch, start):
        raise AssertionError("no batch is needed")

    again = run(tmp_path, batches=never, resume=True)
    assert again[:4] == first[:4]
    assert untimed(tmp_path) == before
    for one, two in zip(
        first.model.parameters(), again.model.parameters(), strict=True
    ):
        assert torch.equal(one, two)


def test_resume_without_a_checkpoint_starts(tmp_path):
    run(tmp_path / "whole")
    with pytest.raises(Crash):
        run(tmp_path / "new", batches=crashing(batches_of(images()), 2))
    assert CheckpointStore(tmp_path / "new" / "checkpoints").steps() == ()
    run(tmp_path / "new", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "new")


def test_an_epoch_that_ends_early(tmp_path):
    """Two of seven batches are missing: the position counts what was given."""
    positions = []

    def short(epoch, start):
        positions.append((epoch, start))
        for index, batch in enumerate(batches_of(images())(epoch, start)):
            if start + index >= 5:
                return
            yield batch

    run(tmp_path / "whole", batches=short)
    assert positions == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]
    with pytest.raises(Crash):
        run(tmp_path / "broken", batches=crashing(short, 17))
    positions.clear()
    run(tmp_path / "broken", batches=short, resume=True)
    # Saved at step 15, before the early end of epoch 2 was seen.
    assert positions[:2] == [(2, 5), (3, 0)]
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_an_epoch_with_too_many_batches_is_cut(tmp_path):
    positions = []

    def logged(epoch, start):
        positions.append((epoch, start))
        yield from batches_of(images())(epoch, start)

    run(tmp_path, batches=logged, batches_per_epoch=3, config=config_of(steps=7))
    assert positions == [(0, 0), (1, 0), (2, 0)]


def test_early_stop(tmp_path):
    accuracies = iter([0.2, 0.5, 0.5, 0.4, 0.9])

    def evaluate(model):
        return {"accuracy": next(accuracies)}

    config = config_of(eval_every=2, patience=2)
    result = run(tmp_path, config=config, evaluate=evaluate)
    assert result[:4] == (8, 6, 0.5, True)
    assert CheckpointStore(tmp_path / "checkpoints").latest().step == 8
    again = run(tmp_path, config=config, evaluate=evaluate, resume=True)
    assert again[:4] == result[:4]


def test_a_monitor_that_must_fall(tmp_path):
    losses = iter([3.0, 1.0, 2.0])
    config = config_of(steps=6, eval_every=2, monitor="loss")
    result = run(tmp_path, config=config, evaluate=lambda model: {"loss": next(losses)})
    assert (result.best_step, result.best_metric) == (4, 1.0)


def test_without_evaluation_the_last_model_is_the_best(tmp_path):
    got = []
    result = run(
        tmp_path, evaluate=None, on_best=lambda model, step: got.append((model, step))
    )
    assert got == [(result.model, 23)]
    assert result.best_step is None


def test_averaged_weights_are_evaluated(tmp_path):
    made = setup()
    models = []

    def evaluate(model):
        models.append(model)
        return {"accuracy": 0.0}

    result = run(tmp_path / "on", made=made, evaluate=evaluate)
    assert result.model is models[0]
    assert models[0] is not made.objective.model
    plain = setup()
    config = config_of(ema=0.0)
    result = run(tmp_path / "off", made=plain, evaluate=evaluate, config=config)
    assert result.model is plain.objective.model
    checkpoint = CheckpointStore(tmp_path / "off" / "checkpoints").load(23)
    assert set(checkpoint.tensors) == {"model", "optimizer"}


def test_an_objective_with_its_own_parameters_resumes(tmp_path):
    class Decoded(Supervised):
        def __init__(self) -> None:
            torch.manual_seed(1)
            super().__init__(Tiny(), SupervisedConfig())
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, batch):
            result = super().forward(batch)
            return {**result, "loss": result["loss"] * self.scale**2}

    def made():
        objective = Decoded()
        return Setup(objective, torch.optim.AdamW(objective.parameters(), 0.01))

    run(tmp_path / "whole", made=made())
    batches = crashing(batches_of(images()), 8)
    with pytest.raises(Crash):
        run(tmp_path / "broken", made=made(), batches=batches)
    run(tmp_path / "broken", made=made(), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    checkpoint = CheckpointStore(tmp_path / "broken" / "checkpoints").load(23)
    assert set(checkpoint.tensors["objective"]) == {"scale"}
    assert checkpoint.tensors["objective"]["scale"] != 1


def test_train_and_eval_modes_are_the_models_own(tmp_path):
    class Frozen(Tiny):
        def train(self, mode=True):
            super().train(mode)
            self.norm.eval()  # a frozen prefix stays in eval mode
            return self

        def forward(self, image):
            assert not self.norm.training
            modes.add(self.drop.training)
            return super().forward(image)

    modes: set[bool] = set()
    made = setup(model=Frozen())
    config = config_of(ema=0.0)
    run(tmp_path, made=made, config=config)
    assert modes == {True, False}


def test_frozen_parameters_stay_bit_equal_also_in_the_average(tmp_path):
    torch.manual_seed(1)
    model = Tiny()
    model.patch.requires_grad_(False)
    before = model.patch.weight.clone()
    result = run(tmp_path, made=setup(model=model))
    assert torch.equal(model.patch.weight, before)
    assert torch.equal(result.model.patch.weight, before)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_ends_the_step_saves_and_resumes_bit_equal(tmp_path, number, code):
    run(tmp_path / "whole")
    before = signal.getsignal(number)

    def batches(epoch, start):
        for index, batch in enumerate(batches_of(images())(epoch, start)):
            if (epoch, start + index) == (1, 3):
                os.kill(os.getpid(), number)
            yield batch

    with pytest.raises(
        InterruptedRun, match=r"step 11 .* saved in .*--resume"
    ) as raised:
        run(tmp_path / "broken", batches=batches)
    assert raised.value.exit_code == code
    assert signal.getsignal(number) is before
    assert CheckpointStore(tmp_path / "broken" / "checkpoints").latest().step == 11
    run(tmp_path / "broken", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_a_signal_cuts_an_evaluation_off(tmp_path):
    run(tmp_path / "whole")
    evaluate = evaluator(images())
    calls = []

    def slow(model):
        calls.append(model)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the signal comes first")
        return evaluate(model)

    with pytest.raises(InterruptedRun, match="step 10 of 23"):
        run(tmp_path / "broken", evaluate=slow)
    run(tmp_path / "broken", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_a_second_signal_stops_at_once(tmp_path):
    def batches(epoch, start):
        for index, batch in enumerate(batches_of(images())(epoch, start)):
            if index == 4:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, batches=batches)
    assert signal.getsignal(signal.SIGINT) is before
    assert CheckpointStore(tmp_path / "checkpoints").latest() == (3, ())


def test_a_signal_before_the_first_step(tmp_path):
    def lr(step):
        raise AssertionError("no step is made")

    class Source:
        def __call__(self, epoch, start):
            raise AssertionError("no batch is read")

    def shown_start(step):
        os.kill(os.getpid(), signal.SIGTERM)

    from vitral.training import Progress

    progress = Progress(23)
    progress.start = shown_start
    with pytest.raises(InterruptedRun, match="there is no checkpoint"):
        run(tmp_path, progress=progress, lr=lr, batches=Source())


def test_outside_the_main_thread_no_handler_is_set(tmp_path):
    results = []
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: results.append(run(tmp_path)))
    thread.start()
    thread.join()
    assert results[0].step == 23
    assert signal.getsignal(signal.SIGTERM) is before


def test_overfitting_a_few_images(tmp_path):
    """32 fixed images of random pixels are learned by heart."""
    torch.manual_seed(0)
    pixels = torch.randn(32, 3, 8, 12)
    model = nn.Sequential(nn.Flatten(), nn.Linear(288, 24), nn.GELU(), nn.Linear(24, 7))
    config = LoopConfig(steps=120, log_every=40)
    result = run(
        tmp_path,
        made=setup(model=model),
        config=config,
        batches=batches_of(pixels),
        batches_per_epoch=8,
        evaluate=evaluator(pixels),
    )
    assert result.best_metric == 1.0


def test_compile_is_asked_for(tmp_path, monkeypatch):
    compiled = []

    def fake(module):
        compiled.append(module)
        return module

    monkeypatch.setattr(torch, "compile", fake)
    made = setup()
    run(tmp_path / "on", made=made, config=config_of(steps=3, compile=True))
    assert compiled == [made.objective]
    run(tmp_path / "off", config=config_of(steps=3))
    assert len(compiled) == 1


def test_resume_as_another_run_is_refused(tmp_path):
    extra = {"data": "abc", "size": (8, 12)}
    run(tmp_path, extra_state=extra)
    run(tmp_path, extra_state=extra, resume=True)
    with pytest.raises(ConfigError, match="`data` 'abc' and this command 'xyz'"):
        run(tmp_path, extra_state=extra | {"data": "xyz"}, resume=True)
    with pytest.raises(ConfigError, match="`size`"):
        run(tmp_path, extra_state={"data": "abc"}, resume=True)
    with pytest.raises(ConfigError, match="`seed` 11 and this command 12"):
        run(tmp_path, extra_state=extra, seed=12, resume=True)
    with pytest.raises(ConfigError, match="`steps` 23 and this command 24"):
        run(tmp_path, extra_state=extra, config=config_of(steps=24), resume=True)
    with pytest.raises(ConfigError, match="`batches_per_epoch`"):
        run(tmp_path, extra_state=extra, batches_per_epoch=6, resume=True)
    # What changes no number may change.
    other = config_of(keep=1, checkpoint_every=5)
    assert run(tmp_path, extra_state=extra, config=other, resume=True).notes == ()


def test_another_machine_is_noted(tmp_path):
    run(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        result = run(tmp_path, resume=True)
    finally:
        torch.set_num_threads(threads)
    assert f"Resumed with threads {threads + 1} instead of {threads}" in result.notes[0]
    assert records(tmp_path)[-1]["text"] == result.notes[0]


def test_a_folder_in_use_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(ConfigError, match="already holds a run: add --resume"):
        run(tmp_path)


def test_a_lost_log_is_noted(tmp_path):
    run(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    assert "has lost its last lines" in run(tmp_path, resume=True).notes[0]


def test_no_sound_checkpoint(tmp_path):
    run(tmp_path)
    store = CheckpointStore(tmp_path / "checkpoints")
    for step in store.steps():
        (store.path(step) / "state.json").unlink()
    with pytest.raises(WeightsError, match=r"No checkpoint in .* can be used.*missing"):
        run(tmp_path, resume=True)


def test_another_model_is_refused(tmp_path):
    run(tmp_path)
    model = nn.Sequential(nn.Flatten(), nn.Linear(288, CLASSES))
    with pytest.raises(WeightsError, match="belongs to another model"):
        run(tmp_path, made=setup(model=model), resume=True)


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match="Epoch 0 of the training data has no batches"):
        run(tmp_path / "a", batches=lambda epoch, start: iter(()))
    with pytest.raises(ConfigError, match="smaller than one batch"):
        run(tmp_path / "b", batches_per_epoch=0)
    config = config_of(monitor="f1")
    with pytest.raises(ConfigError, match="choose one of accuracy, loss"):
        run(tmp_path / "c", config=config)
    made = setup()
    lonely = made._replace(
        optimizer=torch.optim.SGD(made.objective.model.head.parameters())
    )
    with pytest.raises(ConfigError, match=r"the first is model\.patch\.weight"):
        run(tmp_path / "d", made=lonely)
    for name, value in {
        "steps": -1,
        "accumulate": 0,
        "log_every": 0,
        "keep": 0,
        "eval_every": -1,
        "checkpoint_every": -1,
        "patience": -1,
    }.items():
        with pytest.raises(ConfigError, match=f"`{name}` must be at least"):
            config_of(**{name: value})
    with pytest.raises(ConfigError, match="`ema` must be at least 0 and below 1"):
        config_of(ema=1.0)
    config = config_of()
    object.__setattr__(config, "precision", "other")
    with pytest.raises(ConfigError, match=r"`precision` must be .* got 'other'"):
        config.__post_init__()


def test_a_run_needs_a_number_of_steps(tmp_path):
    with pytest.raises(ConfigError, match="`steps` is 0: derive it from the epochs"):
        run(tmp_path, config=config_of(steps=0))


def test_a_data_worker_outlives_ctrl_c(monkeypatch):
    """A forked worker inherits the handler; the loop still needs its batch."""
    with StopSignals() as signals:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(SystemExit, match="143"):
            signal.raise_signal(signal.SIGTERM)
        assert signals.received is None
