"""The paper's experiments: what each row changes, runs shared between tables, tables that say what the runs scored."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys

import pytest
import yaml

import svfap.experiments.runs as runs_module
from svfap.cli.main import main
from svfap.errors import UserError
from svfap.experiments.config import ExperimentConfig
from svfap.experiments.experiment import SYNTHETIC, experiment, experiment_runs, read_settings
from svfap.experiments.runs import BASELINE, ExperimentRuns
from svfap.experiments.studies import EXPERIMENTS, STUDIES, StudyRow
from svfap.train.config import FinetuneConfig
from svfap.train.loop import TrainResult
from svfap.weights.folder import load_model

MODEL = {"num_frames": 8, "stage_depths": [1, 1, 1], "num_bottleneck_tokens": 8}
PRETRAIN = dict(epochs=1, warmup_epochs=0, batch_size=8, mask_ratio=0.75, precision="fp32", model=MODEL)
FINETUNE = dict(epochs=1, warmup_epochs=0, batch_size=7, rand_augment=False, precision="fp32", model=MODEL)


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """YAML files of tiny trainings."""
    folder = tmp_path_factory.mktemp("configs")
    for name, settings in {"pretrain": PRETRAIN, "finetune": FINETUNE}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    files = {f"{name}_config": folder / f"{name}.yaml" for name in ("pretrain", "finetune")}
    return {**files, "preset": "svfap_debug"}


def rows_of(name: str, runs: ExperimentRuns) -> dict[str, StudyRow]:
    return {row.name: row for row in runs.rows(STUDIES[name])}


def test_rows_are_those_of_the_papers_tables(tmp_path, faces, configs):
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, **configs))
    names = {name: list(rows_of(name, runs)) for name in STUDIES}
    assert names == {
        "scratch": ["from scratch", "pre-trained"],
        "schedule": ["1 epochs"],
        "scale": ["1%", "5%", "10%", "20%", "100%"],
        "masking": ["75%", "85%", "90%", "95%"],
        "variants": ["neither", "pyramid only", "bottleneck only", "both"],
        "fusion": ["no / no", "no / yes", "yes / no", "yes / yes"],
        "bottleneck": ["4", "8", "16"],
        "downsampling": ["avg", "max", "conv"],
        "videomae": ["VideoMAE's encoder", "SVFAP"],
        "few_shot": [f"{percent}%{start}" for start in ("", ", from scratch") for percent in (10, 25, 50, 100)],
    }


def test_the_papers_settings_have_the_same_scores_in_every_table(tmp_path, faces):
    """SVFAP-B pre-trained at 90% masking is a row of each table except that of Fig. 5, which gives no numbers."""
    videomae = tmp_path / "videomae.pth"
    videomae.touch()
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, videomae=str(videomae)))
    base = runs.finetunings(BASELINE)
    for name in STUDIES.keys() - {"schedule"}:
        (row,) = (row for row in rows_of(name, runs).values() if runs.finetunings(row) == base)
        assert row.paper.scores == pytest.approx({"uar": 0.6263, "war": 0.7481}), name
    scores = [row.paper.scores for name in STUDIES for row in rows_of(name, runs).values() if row.paper.scores]
    assert len(scores) == 2 + 5 + 4 + 4 + 4 + 3 + 3 + 2 + 2
    assert all(0 < score["uar"] < score["war"] < 1 for score in scores)


def test_every_row_is_a_separate_training_that_tables_share(tmp_path, faces, configs):
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, seeds=2, **configs))
    base = runs.finetunings(BASELINE)
    assert [config.seed for config in base] == [0, 1]
    assert {config.init for config in base} == {str(tmp_path / "runs" / "pretrain-base-seed0")}
    pretrained = {name: runs.pretrainings(row)[0] for name, row in rows_of("masking", runs).items()}
    assert [config.mask_ratio for config in pretrained.values()] == [0.75, 0.85, 0.9, 0.95]
    assert pretrained["75%"] == runs.pretrainings(BASELINE)[0], "the baseline's ratio is the baseline"
    for table, row in (("bottleneck", "8"), ("downsampling", "conv"), ("variants", "both"), ("fusion", "yes / no"),
                       ("scale", "100%"), ("schedule", "1 epochs"), ("few_shot", "100%")):  # fmt: skip
        assert runs.finetunings(rows_of(table, runs)[row]) == base, table
    everything = [c for name in STUDIES for row in rows_of(name, runs).values() for c in runs.finetunings(row)]
    by_folder = {}
    for config in everything:
        assert by_folder.setdefault(config.out, config) == config, "one folder, one training"


def test_settings_of_rows(tmp_path, faces, configs):
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, **configs))
    fused = {
        name: tuple(c.fuse_stages for c in reversed(runs.model_configs(row)))
        for name, row in rows_of("fusion", runs).items()
    }
    values = {"no": False, "yes": True}
    assert fused == {f"{a} / {b}": (values[a], values[b]) for a in values for b in values}
    assert [runs.pretrainings(row)[0].fraction for row in rows_of("scale", runs).values()] == [0.01, 0.05, 0.1, 0.2, 1]
    few = rows_of("few_shot", runs)
    assert [runs.finetunings(row)[0].fraction for row in few.values()] == [0.1, 0.25, 0.5, 1.0] * 2
    assert [runs.finetunings(row)[0].init is None for row in few.values()] == [False] * 4 + [True] * 4
    plain = runs.finetunings(rows_of("variants", runs)["neither"])[0].model
    assert (plain["temporal_pyramid"], plain["spatial_bottleneck"]) == (False, False)
    assert runs.pretrainings(rows_of("variants", runs)["neither"])[0].model == plain


def test_each_seed_may_pretrain_and_weights_may_replace_pretraining(tmp_path, faces, configs):
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, seeds=2, share_pretraining=False, **configs))
    assert [config.seed for config in runs.pretrainings(BASELINE)] == [0, 1]
    assert [config.init[-1] for config in runs.finetunings(BASELINE)] == ["0", "1"]
    weights = tmp_path / "elsewhere"
    weights.mkdir()
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, seeds=2, weights=str(weights), **configs))
    assert runs.pretrainings(BASELINE) == [] and runs.finetunings(BASELINE)[0].init == str(weights)
    assert len(runs.pretrainings(rows_of("masking", runs)["90%"])) == 2


def test_a_recipe_with_weights_can_be_used_unchanged(tmp_path, faces):
    """Its `init` replaces the baseline's pre-training; rows from scratch ignore it."""
    recipe = SYNTHETIC.parents[3] / "configs" / "dfew.yaml"
    settings = yaml.safe_load(recipe.read_text())
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, finetune_config=recipe))
    scratch, pretrained = (runs.finetunings(row)[0] for row in rows_of("scratch", runs).values())
    assert (scratch.init, pretrained.init) == (None, settings["init"]) and pretrained.dataset == faces
    assert runs.pretrainings(BASELINE) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_rl: 1", "base_rl"),
        ("epochs: many", "epochs"),
        ("seed: 3", "seed cannot be set here"),
        ("manifest: a.csv", "manifest cannot be set here"),
        ("just words", ""),
    ],
)
def test_settings_are_read_as_the_command_reads_them(text, message, tmp_path, faces):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=rf"settings.yaml: .*{message}"):
        experiment_runs(ExperimentConfig(out=tmp_path / "out", dataset=faces, finetune_config=file))


def test_settings_may_name_datasets(tmp_path, faces):
    (tmp_path / "a.yaml").write_text(f"dataset: {faces}\nfold: '1'\nbase_lr: 1e-3\nmodel: {{num_frames: 8}}")
    (tmp_path / "b.yaml").write_text(f"dataset: {tmp_path}")
    runs = experiment_runs(
        ExperimentConfig(out=tmp_path / "out", finetune_config=tmp_path / "a.yaml", pretrain_config=tmp_path / "b.yaml")
    )
    config = runs.finetunings(BASELINE)[0]
    assert (str(config.dataset), config.fold, config.base_lr) == (str(faces), "1", 0.001)
    assert str(runs.pretrain["dataset"]) == str(tmp_path)


def test_experiments_run_without_torchrun(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="without torchrun"):
        experiment("scratch", ExperimentConfig(out=tmp_path))


def test_videomae_is_its_checkpoint_or_its_encoder(tmp_path, faces, configs):
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, **configs))
    plain, ours = (runs.model_configs(row)[0] for row in rows_of("videomae", runs).values())
    assert (plain.stage_depths, plain.embed_dim) == ((1,), 48) and ours.embed_dim == 32
    videomae = tmp_path / "videomae.pth"
    videomae.touch()
    runs = experiment_runs(ExperimentConfig(out=tmp_path, dataset=faces, videomae=str(videomae)))
    rows = rows_of("videomae", runs)
    assert list(rows) == ["VideoMAE (Kinetics-400)", "SVFAP-B"]
    published = runs.finetunings(rows["VideoMAE (Kinetics-400)"])[0]
    assert (published.preset, published.init, published.epochs) == ("videomae_base", str(videomae), 100)
    assert runs.model_configs(rows["VideoMAE (Kinetics-400)"])[0].embed_dim == 768


def test_a_table_has_the_scores_of_its_runs_and_no_run_is_repeated(tmp_path, faces, configs, monkeypatch, capsys):
    config = ExperimentConfig(out=tmp_path, dataset=faces, seeds=2, **configs)
    table = experiment("downsampling", config)["downsampling"]
    assert list(table["down-sampling"]) == ["avg", "max", "conv"]
    kinds = ("base", "temporal_downsample=avg", "temporal_downsample=max")
    assert {run.name for run in (tmp_path / "runs").iterdir()} == {
        *(f"pretrain-{kind}-seed0" for kind in kinds),
        *(f"finetune-{kind}-to-{kind}-seed{seed}" for kind in kinds for seed in (0, 1)),
    }
    scores = json.loads((tmp_path / "downsampling.json").read_text())["scores"]
    files = [tmp_path / "runs" / f"finetune-base-to-base-seed{seed}" / "evaluation/metrics.json" for seed in (0, 1)]
    uar = [100 * json.loads(file.read_text())["uar"] for file in files]
    assert [100 * seed["uar"] for seed in scores["conv"]] == uar
    assert table["UAR, %"].iloc[2].startswith(f"{statistics.mean(uar):.1f} ± {statistics.stdev(uar):.1f}")
    assert (
        "62.04 / 74.42" in table["paper: UAR / WAR, %"].iloc[0] and table["paper: M, G, G"].iloc[2] == "77.6, 43.6, –"
    )
    model = load_model(tmp_path / "runs" / "pretrain-temporal_downsample=max-seed0")
    assert model.config.temporal_downsample == "max"
    text = (tmp_path / "downsampling.md").read_text()
    assert "Table 6" in text and "chance is 14.3% UAR" in text and "one pre-training" in text
    assert (tmp_path / "downsampling.png").stat().st_size > 10_000 and (tmp_path / "downsampling.tex").exists()
    done = []
    monkeypatch.setattr(runs_module, "pretrain", lambda config: done.append(config.out) or TrainResult(finished=True))
    before = {file: file.stat().st_mtime_ns for file in files}
    command = [
        "experiment",
        "downsampling",
        "--out",
        str(tmp_path),
        "--dataset",
        str(faces),
        "--seeds",
        "2",
        "--preset",
    ]
    files_of = [f"--{name}={configs[name]}" for name in ("pretrain_config", "finetune_config")]
    assert main([*command, "svfap_debug", *files_of]) == 0
    assert len(done) == 3 and {file: file.stat().st_mtime_ns for file in files} == before
    assert "avg" in capsys.readouterr().out


def test_scratch_against_pretrained_and_reconstructions(tmp_path, faces, configs):
    config = ExperimentConfig(out=tmp_path, dataset=faces, seeds=1, **configs)
    table = experiment("scratch", config)["scratch"]
    assert list(table["training"]) == ["from scratch", "pre-trained"]
    assert load_model(tmp_path / "runs" / "finetune-scratch-to-base-seed0").config.provenance["init"] is None
    table = experiment("reconstructions", config)["reconstructions"]
    errors = table["mean squared error"].astype(float)
    assert list(table["masking ratio"]) == ["75%", "85%", "90%", "95%"] and errors.between(0.3, 3).all()
    assert (tmp_path / "reconstructions_3.png").exists()


def test_no_runs_are_interrupted_silently(tmp_path, faces, configs, monkeypatch, capsys):
    monkeypatch.setattr(runs_module, "train_one", lambda config: signal.SIGTERM)
    arguments = ["--dataset", str(faces), *(f"--{name}={value}" for name, value in configs.items())]
    assert main(["experiment", "scratch", "--out", str(tmp_path), *arguments]) == 128 + signal.SIGTERM
    assert "interrupted and saved; the same command continues it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "experiment 'nonsense' is none of scratch"),
        (["scratch", "--seeds", "0"], "seeds=0"),
        (["scratch", "--parallel", "0"], "parallel=0"),
        (["scratch", "--dataset", "nowhere"], "dataset=nowhere: holds no dataset.json"),
        (["scratch", "--pretrain_dataset", "nowhere"], "pretrain_dataset=nowhere: holds no dataset.json"),
        (
            ["scratch", "--dataset", "FACES", "--weights", "nowhere.pth"],
            "weights=nowhere.pth: no such folder or checkpoint",
        ),
        (
            ["videomae", "--dataset", "FACES", "--videomae", "nowhere.pth"],
            "videomae=nowhere.pth: no such folder or checkpoint",
        ),
        (["scratch", "--dataset", "FACES", "--fold", "7"], "no fold '7'"),
        (["scratch", "--dataset", "FACES", "--finetune_config", "nowhere.yaml"], "finetune_config=nowhere.yaml: "),
    ],
)
def test_mistakes(arguments, message, tmp_path, faces, capsys):
    arguments = [str(faces) if argument == "FACES" else argument for argument in arguments]
    assert main(["experiment", *arguments, "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err


def test_weights_may_be_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: f"cache/{name}/{file}")
    assert ExperimentConfig(weights="someone/svfap_base").weights == "someone/svfap_base"
    with pytest.raises(UserError, match="no such folder or checkpoint"):
        ExperimentConfig(weights=f"{tmp_path}/svfap_base")


def test_help_and_mistakes_do_not_import_torch():
    """An unknown name and a missing file are reported at once, and --help lists every experiment."""
    script = """
import sys
from svfap.cli.main import main
assert main(["experiment", "nonsense"]) == 1
assert main(["experiment", "scratch", "--finetune_config", "nowhere.yaml"]) == 1
try:
    main(["experiment", "--help"])
except SystemExit as end:
    assert end.code == 0
assert not {"torch", "pandas", "matplotlib"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    for name in EXPERIMENTS:
        assert f"{name}: " in shown
    assert "masking: masking ratio (Table 2)" in shown


def test_synthetic_settings_are_valid_and_need_no_further_files(tmp_path, monkeypatch):
    """What runs by default: the files lie in the package and are settings that exist."""
    from svfap.synth import dataset as synth

    def described(config):
        assert config.num_pretrain == yaml.safe_load((SYNTHETIC / "synth.yaml").read_text())["num_pretrain"]
        config.out.mkdir(parents=True)
        synth.write_dataset_file(config.out, synth.describe_dataset(config))

    monkeypatch.setattr(synth, "synthesize", described)
    runs = experiment_runs(ExperimentConfig(out=tmp_path))
    tuned, masked = runs.model_configs(BASELINE)
    assert tuned.embed_dim == masked.embed_dim and masked.mask_ratio == 0.75
    for name in STUDIES:
        for row in rows_of(name, runs).values():
            assert runs.finetunings(row) and (row.pretrain is None or runs.pretrainings(row))
    assert set(EXPERIMENTS) == {*STUDIES, "reconstructions", "all"}


def test_figures_show_rows_seeds_and_the_papers_numbers():
    from svfap.view.figures.studies import study_figure

    scores = {"a": {"uar": [0.2, 0.4]}, "b": {"uar": [0.5, 0.5]}}
    for joined in (False, True):
        figure = study_figure(scores, ["uar"], "what", joined=joined, reference={"b": {"uar": 0.6}})
        (axes,) = figure.axes
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b"]
        heights = [p.get_height() for p in axes.patches] or axes.lines[0].get_ydata()
        assert list(heights) == pytest.approx([30, 50])
        drawn = [tuple(point) for c in axes.collections for point in c.get_offsets().tolist()]
        assert (1, 60) in [(x, round(y)) for x, y in drawn]


def test_a_number_in_a_settings_file_names_a_fold(tmp_path):
    (tmp_path / "recipe.yaml").write_text("fold: 1\nlabel_names: [0, 1]\n")
    settings = read_settings(FinetuneConfig, tmp_path / "recipe.yaml")
    assert (settings["fold"], settings["label_names"]) == ("1", ["0", "1"])
