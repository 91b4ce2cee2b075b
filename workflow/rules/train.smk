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


# One rule for each stage, for all runs that have it: its directory is named by all that its weights
# depend on, so no setting is compared, and no parameter may differ between these runs.
for paths, stage in stages_of_runs(PATHS.values()).values():
    gpus_held = min(gpus, paths.config.devices)
    rule_of_stage = partial(rule_name, of=paths.stage(stage))

    if stage_features(paths, stage):

        # Training depends on this file and not on the manifests, whose paths may change.
        rule:
            name:
                rule_of_stage("ready", paths.config.run_name, stage.directory)
            input:
                manifests=[t.features_manifest for t in paths.teachers],
            output:
                ready=touch(paths.features_ready(stage)),
            priority: urgent
            threads: threads_held
            resources:
                gpu=gpus_held,
            message:
                f"Confirm that all teacher features of run {paths.config.run_name} exist"

    rule:
        name:
            rule_of_stage("train", paths.config.run_name, stage.directory)
        input:
            **stage_inputs(paths, stage),
            # Only a new teacher or new images cause new training; both are inputs.
            features=ancient(stage_features(paths, stage)),
        output:
            metrics=paths.metrics(stage),
            checkpoint=paths.checkpoint(stage),
            best=paths.checkpoint(stage, "best"),
        log:
            paths.stage(stage) / "train.log",
        benchmark:
            paths.stage_times(stage)
        priority: urgent
        conda:
            "../envs/mobile_sam.yml"
        threads: threads_each
        resources:
            **training_resources(paths.config),
        params:
            settings=paths.stage_settings(stage),
            stage=stage.index,
        message:
            f"Train stage {stage.directory} of run {paths.config.run_name}; log: {{log}}"
        shell:
            "exec {resources.launcher} python -m mobile_sam train --stage {params.stage} "
            "--config {params.settings} --log {log}"


# The final weights of each run.
for paths in PATHS.values():
    stages = normalise(paths.config)
    run = paths.config.run_name
    gpus_held = min(gpus, paths.config.devices)

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


# The weights of a stage, for runs that start from it.
for weights, (paths, stage) in start_stages(RUNS).items():

    rule:
        name:
            rule_name("export", paths.config.run_name, stage.directory, of=weights)
        input:
            checkpoint=paths.checkpoint(stage),
        output:
            weights=weights,
        log:
            paths.logs / f"export_{stage.directory}.log",
        benchmark:
            paths.benchmarks / f"export_{stage.directory}.tsv"
        priority: urgent
        conda:
            "../envs/mobile_sam.yml"
        threads: threads_held
        resources:
            gpu=min(gpus, paths.config.devices),
        params:
            settings=paths.settings,
            stage=stage.directory,
        message:
            f"Export stage {stage.directory} of run {paths.config.run_name}; log: {{log}}"
        shell:
            "exec python -m mobile_sam export --config {params.settings} "
            "--stage {params.stage} --log {log}"
