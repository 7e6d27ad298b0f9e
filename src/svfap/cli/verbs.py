"""All verbs: what each does, its settings, and its arguments without a flag. `svfap.cli.VERB:run` runs it."""

from __future__ import annotations

from pathlib import Path

from svfap.cli.parser import Command, Positional, Variants

SOURCES = Positional(
    "sources",
    "videos, images, folders of videos or of frames, or manifests (.csv, .txt), whose columns come along",
    nargs="+",
)

VERBS: dict[str, Command] = {
    "prepare": Command(
        "Prepare a dataset for training: read its official release, check it, and write the manifests of its protocol.",
        "svfap prepare dfew --root /data/DFEW --out prepared/dfew",
        "svfap.datasets.config:PrepareConfig",
        variants=Variants(
            "dataset",
            "`svfap prepare DATASET --help` explains where to get it and what the folder must look like.",
            "svfap.cli.prepare:datasets",
        ),
    ),
    "synth": Command(
        "Write a synthetic face-video dataset: procedural faces whose expressions follow facial action units.",
        "svfap synth data/synthetic --size_px 64 --num_workers 8",
        "svfap.synth.config:SynthConfig",
        (Positional("out", "folder that videos and manifests are written into", type=Path),),
    ),
    "crop": Command(
        "Crop faces: raw videos to clips of every face, without sound, and a manifest to pre-train on. With --dataset, one "
        "face of each clip of a prepared dataset, which stays the same in all else.",
        "svfap crop videos/ --out faces && svfap pretrain --manifest faces/manifest.csv --out runs/pretrain",
        "svfap.crop.config:CropConfig",
        (SOURCES._replace(nargs="*"),),
    ),
    "pack": Command(
        "Pack videos for training: the same dataset or manifest, with every frame as a JPEG file in tar archives, which are read "
        "several times as fast as H.264 and take some eight times the room. What takes --dataset or --manifest takes the "
        "packed data, also at a URL (s3://, hf://); frames, labels and folds stay the same.",
        "svfap pack prepared/voxceleb2 --out packed/voxceleb2 && svfap pretrain --dataset packed/voxceleb2 --out runs/pretrain",
        "svfap.packing.config:PackConfig",
        (Positional("source", "folder of `svfap prepare`, or a manifest (.csv, .txt)", type=Path),),
    ),
    "pretrain": Command(
        "Pre-train by masked autoencoding: hide 90% of each clip and predict the hidden pixels.",
        "svfap pretrain --manifest videos.csv --out runs/pretrain --preset svfap_small",
        "svfap.train.config:PretrainConfig",
    ),
    "finetune": Command(
        "Fine-tune for classes or affect dimensions: from pre-trained weights or from scratch. With --fold all every fold "
        "of a prepared dataset is trained and tested, and their predictions are pooled.",
        "svfap finetune --manifest train.csv --init runs/pretrain --out runs/finetune --preset svfap_small",
        "svfap.train.config:FinetuneConfig",
    ),
    "sweep": Command(
        "Try settings of finetune or pretrain with several seeds: a grid or random draws from a YAML file. The "
        "validation score chooses, never a test score; the best settings are written for --config.",
        "svfap sweep sweep.yaml --out runs/sweep",
        "svfap.sweep.config:SweepConfig",
        (Positional("file", "YAML with `settings`, `choices`, `seeds` and, for random draws, `trials`", type=Path),),
    ),
    "evaluate": Command(
        "Evaluate a model on a test set: multi-view testing, UAR, WAR, F1, CCC, PCC and MAE. Without --manifest and "
        "--dataset a run is evaluated on its own test part.",
        "svfap evaluate --model runs/finetune --manifest test.csv",
        "svfap.evaluation.config:EvaluateConfig",
    ),
    "probe": Command(
        "Probe a frozen encoder: what linear, nearest-neighbour and attentive readers find in its features, beside those of an "
        "untrained encoder, pixels and chance, with confidence intervals over people.",
        "svfap probe runs/pretrain --dataset prepared/crema_d --kind '[linear, knn, attentive]'",
        "svfap.probe.config:ProbeConfig",
        (Positional("run", "run or model folder, Hub name or checkpoint, pre-trained or fine-tuned"),),
    ),
    "calibrate": Command(
        "Calibrate a classifier: one temperature for its logits, fitted on validation videos, so that its probabilities are as "
        "often right as they say. The classes that it predicts stay the same; the model is written anew.",
        "svfap calibrate runs/finetune && svfap evaluate --model runs/finetune/calibrated",
        "svfap.evaluation.config:CalibrateConfig",
        (Positional("run", "run or model folder, Hub name or checkpoint, of a classifier"),),
    ),
    "pool": Command(
        "Pool the evaluations of all folds: score their predictions together, beside the numbers of the paper.",
        "svfap pool --models 'released/fold_{fold}' --dataset prepared/dfew --out runs/dfew_released",
        "svfap.evaluation.config:PoolConfig",
        (Positional("run", "folder of `svfap finetune --fold all`, whose table is written again", "?", Path | None),),
    ),
    "compare": Command(
        "Compare trained models on the same test set: differences with confidence intervals over people, paired tests, and which "
        "of them hold. With several runs for each row, such as three seeds, over runs and people.",
        "svfap compare scratch=runs/scratch pretrained=runs/finetune",
        "svfap.evaluation.config:CompareConfig",
        (
            Positional(
                "runs",
                "run folders, evaluations, or folders of folds; or NAME=RUN, or NAME=RUN,RUN,RUN for several seeds of one "
                "method. The first is the reference",
                "+",
            ),
        ),
    ),
    "report": Command(
        "Write a page about runs: training curves, scores beside the paper's, calibration, embeddings, difficult videos.",
        "svfap report runs/pretrain runs/finetune --out report.html",
        "svfap.reports.config:ReportConfig",
        (Positional("runs", "run folders, or folders of folds, which count as one run", "+", Path),),
    ),
    "runs": Command(
        "List the runs under a folder: state, epochs, settings that differ, best validation score, test score, loss, time. "
        "Validation chooses between runs; the test score is for the report.",
        "svfap runs runs/ --sort validation",
        "svfap.reports.config:RunsConfig",
        (Positional("folder", "folder with runs, at any depth", type=Path),),
    ),
    "predict": Command(
        "Predict over time what a model reads in faces: a table and a timeline of every face in any video. Without --model it "
        "is facial movement (mouth opening, smile width, brow height, eye opening, blink), which is not emotion; affect needs a "
        "model that was fine-tuned for it.",
        "svfap predict interview.mp4 --report page.html",
        "svfap.predict.config:PredictConfig",
        (
            Positional(
                "videos",
                "videos, images, folders of videos or of frames, patterns such as 'videos/*.mp4', manifests (.csv, .txt) of "
                "whole videos, webcam numbers, addresses of streams",
                "+",
            ),
        ),
    ),
    "app": Command(
        "Open a page to drop videos on, in a browser on this machine: progress, timelines beside the playing video, tables, and "
        "the camera. Nothing leaves this machine.",
        "svfap app",
        "svfap.serve.config:AppConfig",
    ),
    "serve": Command(
        "Serve predictions over HTTP: submit a video or its address, stream or poll rows, fetch results. /docs describes it.",
        "svfap serve --port 8000 --folder /data/svfap_jobs",
        "svfap.serve.config:ServeConfig",
    ),
    "table": Command(
        "Write a table of predictions anew: people named, values smoothed, a baseline subtracted, numbers rounded; as a table, "
        "for Excel, as tiers for ELAN, as WebVTT captions, or as a summary. The table itself is not changed.",
        "svfap table predictions.csv --smooth_s 1 --decimals 3 --out smooth.xlsx --summary summary.csv",
        "svfap.predict.config:TableConfig",
        (Positional("table", "table of `svfap predict`", type=Path),),
    ),
    "methods": Command(
        "Print sentences for a methods section: how a table of predictions was made.",
        "svfap methods predictions.csv",
        "svfap.predict.config:MethodsConfig",
        (Positional("file", "table of `svfap predict` or `svfap table`, or the NAME.about.json beside it", type=Path),),
    ),
    "extract": Command(
        "Extract features: a vector for each window, time step or video, as a table.",
        "svfap extract videos.csv --model runs/pretrain --out features.parquet",
        "svfap.features.config:ExtractConfig",
        (SOURCES,),
    ),
    "reconstruct": Command(
        "Reconstruct masked frames: the original, what the encoder sees, and the model's reconstruction.",
        "svfap reconstruct some.mp4 --model runs/pretrain --out runs/pretrain/reconstruction",
        "svfap.predict.config:ReconstructConfig",
        (Positional("video", "video file, folder of frames, or image"),),
    ),
    "experiment": Command(
        "Run one of the paper's experiments: train what it compares, score it, and write the table and the figure with the "
        "paper's numbers beside.",
        "svfap experiment masking --out runs/experiments",
        "svfap.experiments.config:ExperimentConfig",
        (Positional("name", "svfap.experiments.studies:EXPERIMENTS_HELP"),),
    ),
    "demo": Command(
        "Show the complete method on synthetic faces in a few minutes on two cores: render them, pre-train, fine-tune, evaluate, "
        "predict, and write a page and a table: is pre-training better than what is simpler? Run again, it continues.",
        "svfap demo",
        "svfap.demo.config:DemoConfig",
    ),
    "info": Command(
        "Show what a model costs: parameters, multiply-adds by stage, tokens, memory.",
        "svfap info svfap_base --mask_ratio 0.75",
        "svfap.weights.config:InfoConfig",
        (
            Positional(
                "model",
                "preset, shipped model, run or model folder, Hub name or checkpoint; none: list the presets",
                "?",
            ),
        ),
    ),
    "bench": Command(
        "Measure this machine in two minutes: clips per second of pre-training, fine-tuning and prediction by batch size and "
        "precision, of reading your videos by number of workers, and who waits for whom; ends with the commands that follow. "
        "The real training loop and the real loader run; batches grow until they gain less than 5%, or time or memory ends.",
        "svfap bench --manifest faces/manifest.csv --preset svfap_base --seconds 120",
        "svfap.bench.config:BenchConfig",
    ),
    "models": Command(
        "List the models that come with the package and those that are published elsewhere: outputs, input, licence, and how to "
        "get them. With the name of one, or a run or model folder, print its model card.",
        "svfap models authors/dfew-1",
        "svfap.weights.config:ModelsConfig",
        (
            Positional(
                "name", "a model, or the folder of one or of a run, whose card is printed; none: list them all", "?"
            ),
        ),
    ),
    "convert": Command(
        "Convert checkpoints: those published by the authors of SVFAP and VideoMAE into a model folder, or a model into "
        "their format, if OUT ends in .pth. Code in a checkpoint is never executed.",
        "svfap convert downloads/dfew_fold_1.pth models/dfew/fold_1 --dataset dfew",
        "svfap.weights.config:ConvertConfig",
        (
            Positional("model", "published checkpoint (.pth, .pt, .bin, .safetensors); or run or model folder"),
            Positional("out", "folder for the model; or a .pth or .pt file in the published format", type=Path),
        ),
    ),
    "export": Command(
        "Export a model as an ONNX file that runs without this package, and check that it computes the same. predict, extract "
        "and evaluate take the file as --model.",
        "svfap export runs/finetune --int8 --check test.csv --out model.onnx",
        "svfap.export.config:ExportConfig",
        (Positional("model", "run or model folder, Hub name, shipped model or checkpoint"),),
    ),
}
