# Training, from initial weights to the final ones.

# One rule for each file of initial weights `shapes`, for all runs that start from it.
for paths in {p.shape_weights: p for p in PATHS.values() if p.shape_weights}.values():

    rule:
        name:
            rule_name("shapes", paths.shape_weights.stem)
        output:
            weights=paths.shape_weights,
        log:
            paths.project_logs / f"shapes_{paths.shape_weights.stem}.log",
        benchmark:
            paths.project_logs / f"shapes_{paths.shape_weights.stem}.tsv"
        priority: urgent
        conda:
            "../envs/mobile_sam.yml"
        threads: threads_each
        resources:
            gpu=1,
        params:
            settings=paths.shape_settings,
        message:
            f"Teach a random decoder what a box means; log: {{log}}"
        shell:
            "exec python -m mobile_sam shapes --config {params.settings} --log {log}"


# One rule for each stage of each run, and one for its final weights.
for paths in PATHS.values():
    stages = normalise(paths.config)
    run = paths.config.run_name
    gpus_held = min(gpus, paths.config.devices)

    if needs_features(paths.config):

        # Training depends on this file and not on the manifests, whose paths may change.
        rule:
            name:
                rule_name("ready", run)
            input:
                manifests=[t.features_manifest for t in paths.teachers],
            output:
                ready=touch(paths.features_ready),
            priority: urgent
            threads: threads_held
            resources:
                gpu=gpus_held,
            message:
                f"Confirm that all teacher features of run {run} exist"

    for stage in stages:

        rule:
            name:
                rule_name("train", run, stage.directory)
            input:
                **stage_inputs(paths, stage),
                # Only a new teacher or new images cause new training; both are inputs.
                features=ancient(stage_features(paths, stage)),
            output:
                metrics=paths.metrics(stage),
                checkpoint=paths.checkpoint(stage),
                best=paths.checkpoint(stage, "best"),
            log:
                paths.logs / f"train_{stage.directory}.log",
            benchmark:
                paths.benchmarks / f"train_{stage.directory}.tsv"
            priority: urgent
            conda:
                "../envs/mobile_sam.yml"
            threads: threads_each
            resources:
                **training_resources(paths.config),
            params:
                settings=paths.settings,
                stage=stage.directory,
                depends_on=canonical(paths.config, stage),
            message:
                f"Train stage {stage.directory} of run {run}; log: {{log}}"
            shell:
                "exec {resources.launcher} python -m mobile_sam train --stage {params.stage} "
                "--config {params.settings} --log {log}"

    rule:
        name:
            rule_name("export", run)
        input:
            checkpoint=paths.checkpoint(stages[-1], paths.config.use_checkpoint),
        output:
            weights=paths.weights,
        log:
            paths.logs / "export.log",
        benchmark:
            paths.benchmarks / "export.tsv"
        priority: urgent
        conda:
            "../envs/mobile_sam.yml"
        threads: threads_held
        resources:
            gpu=gpus_held,
        params:
            settings=paths.settings,
        message:
            f"Export the weights of run {run}; log: {{log}}"
        shell:
            "exec python -m mobile_sam export --config {params.settings} --log {log}"
