# Variants of runs: successive halving after some epochs, and one report for all variants of a run.

trained_whole = stages_trained_whole(RUNS)

# One rule for each stage up to an epoch, for all variants that have it. The rule that trains the
# whole stage continues where this one ends.
for result, (paths, stage, epoch) in rung_trainings(RUNS).items():

    rule:
        name:
            rule_name(
                "train", paths.config.run_name, stage.directory, "to", epoch, of=result
            )
        input:
            **rung_inputs(paths, stage, trained_whole),
            features=ancient(stage_features(paths, stage)),
        output:
            result=result,
        log:
            result.with_suffix(".log"),
        benchmark:
            result.with_suffix(".tsv")
        priority: urgent
        conda:
            "../envs/mobile_sam.yml"
        threads: threads_each
        resources:
            **training_resources(paths.config),
        params:
            settings=paths.stage_settings(stage),
            stage=stage.index,
            epoch=epoch,
        message:
            f"Train stage {stage.directory} of run {paths.config.run_name} to epoch {epoch}; "
            "log: {log}"
        shell:
            "exec {resources.launcher} python -m mobile_sam train --stage {params.stage} "
            "--until-epoch {params.epoch} --config {params.settings} --log {log}"


def remaining(group, epoch=None):
    """Return the variants that are trained to an epoch of `sweep_stop`, or to the end.

    Snakemake calls this again after each decision that is not made yet.
    """
    stop = group.config.sweep_stop
    names = list(group.values)
    for before in stop.epochs if stop else ():
        if before == epoch:
            break
        decision = getattr(
            checkpoints, rule_name("halve", group.config.run_name, before)
        )
        decision.get()
        halving = read_halving(RunPaths(group.config).sweep, before)
        names = [name for name in names if name in halving.remaining]
    return names


def rung_results(group, epoch, wildcards):
    """Return the validation IoU of all variants that are trained to an epoch."""
    paths = [PATHS[name] for name in remaining(group, epoch)]
    return [each.rung(stage_at(each.config, epoch), epoch) for each in paths]


def finished_variants(wildcards):
    """Return the weights of all runs, and those of the variants that are not stopped."""
    stopped = {n for g in RUNS.variants for n in {*g.values} - {*remaining(g)}}
    return [PATHS[r.run_name].weights for r in RUNS.named if r.run_name not in stopped]


def results_of_variants(group, wildcards):
    return sweep_inputs(RUNS, group, measured_of_variant, remaining(group))


def validation_of_variants(group, wildcards):
    return results_of_variants(group, wildcards)["validation"]


for group in RUNS.variants:
    manifest = RunPaths(group.config).sweep
    target = manifest.parent / "report"
    stop = group.config.sweep_stop
    epochs = stop.epochs if stop else []

    for epoch in epochs:

        checkpoint:
            name:
                rule_name("halve", group.config.run_name, epoch)
            input:
                results=partial(rung_results, group, epoch),
            output:
                decision=halving_file(manifest, epoch),
            log:
                halving_file(manifest, epoch).with_suffix(".log"),
            localrule: True
            conda:
                "../envs/mobile_sam.yml"
            params:
                manifest=manifest,
                epoch=epoch,
                reduction_factor=stop.reduction_factor,
            message:
                f"Stop the variants of {group.config.run_name} that are worse after {epoch} "
                "epochs; log: {log}"
            shell:
                "exec python -m mobile_sam sweep {params.manifest} --halve {params.epoch} "
                "--log {log}"

    rule:
        name:
            rule_name("sweep", group.config.run_name)
        input:
            unpack(partial(results_of_variants, group)),
            decisions=[halving_file(manifest, e) for e in epochs],
        output:
            page=report(
                target / "index.html",
                category=group.config.run_name,
                caption="../report/index.rst",
                labels={"part": "whole report"},
            ),
            table=report(
                target / "variants.csv",
                category=group.config.run_name,
                caption="../report/summary.rst",
                labels={"part": "variants"},
            ),
        log:
            manifest.with_name("sweep.log"),
        benchmark:
            manifest.with_name("sweep.tsv")
        conda:
            "../envs/mobile_sam.yml"
        params:
            manifest=manifest,
        message:
            f"Compare the variants of {group.config.run_name}; log: {{log}}"
        shell:
            "exec python -m mobile_sam sweep {params.manifest} --log {log} > /dev/null"
