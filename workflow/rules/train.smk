# One rule for each stage of each run, and one for the weights at its end.

for paths in PATHS.values():
    stages = normalise(paths.config)
    run = rule_name(paths.config.run_name)
    start = [path for path in (paths.start_weights,) if path]
    first_teacher = [paths.teacher_weights] if paths.teacher_weights else []
    teachers = [t.teacher_weights for t in paths.teachers if t.teacher_weights]

    for stage in stages:
        first = stage.index == 0

        rule:
            name:
                f"train_{run}_{rule_name(stage.directory)}"
            input:
                paths.index,
                (
                    start
                    if first
                    else paths.checkpoint(stages[stage.index - 1], stage.start_from)
                ),
                # The decoder may be the teacher's in every stage: a model is built before it is loaded.
                (
                    teachers
                    if stage.distillation
                    else first_teacher if paths.config.decoder_from_teacher else []
                ),
                # Only a new teacher or new images are a reason to train again, and both are inputs.
                (
                    ancient([t.features_manifest for t in paths.teachers])
                    if stage.distillation and needs_features(paths.config)
                    else []
                ),
            output:
                paths.metrics(stage),
                paths.checkpoint(stage),
                paths.checkpoint(stage, "best"),
            log:
                paths.logs / f"train_{stage.directory}.log",
            benchmark:
                paths.benchmarks / f"train_{stage.directory}.tsv"
            # As many as there are, up to eight: small models gain nothing from more.
            threads: 8
            resources:
                **distributed(paths.config),
            params:
                settings=paths.settings,
                stage=stage.directory,
                depends_on=canonical(paths.config, stage),
            shell:
                "exec {resources.launcher} python -m mobile_sam train --stage {params.stage} "
                "--config {params.settings} --log {log}"

    rule:
        name:
            f"export_{run}"
        input:
            paths.checkpoint(stages[-1], paths.config.use_checkpoint),
        output:
            paths.weights,
        log:
            paths.logs / "export.log",
        benchmark:
            paths.benchmarks / "export.tsv"
        params:
            settings=paths.settings,
        shell:
            "exec python -m mobile_sam export --config {params.settings} --log {log}"
