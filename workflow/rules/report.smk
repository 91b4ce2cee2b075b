# Validation of each checkpoint of the named runs, and their reports.

# GPUs by the first word of a rule's name. A cluster assigns resources by that word, so rules
# without a GPU do not begin with `validate`.
gpus_by_word = {"validate": 1, "baseline": 0, "join": 0}
measured_of_variant = variant_checkpoints(RUNS)
# Latency is measured last: what it waits for, by the name of the run.
validated_before_cost = {
    run.run_name: report_inputs(PATHS[run.run_name])["validation"]
    for run in RUNS.alone
    if run.benchmark_repeats
}
for group in RUNS.variants:
    tables = partial(validation_of_variants, group)
    validated_before_cost |= dict.fromkeys(cost_variants(RUNS, group), tables)

for paths in [PATHS[settings.run_name] for settings in RUNS.named]:
    settings = paths.config
    run = settings.run_name
    jobs = settings.validate_jobs
    validated = checkpoint_inputs(
        paths, measured_of_variant.get(run) or checkpoint_names(settings)
    )

    for checkpoint_name, files in validated.items():
        measure_word = "baseline" if checkpoint_name == BOX_FILLED else "validate"
        result_word = "join" if jobs > 1 else measure_word
        parts = range(jobs if jobs > 1 else 0)
        step = "--step join" if parts else ""

        for part in parts:

            rule:
                name:
                    rule_name(measure_word, run, checkpoint_name, part, "of", jobs)
                input:
                    **files,
                output:
                    table=temp(paths.validation_part(checkpoint_name, part)),
                log:
                    paths.logs / f"validate_{checkpoint_name}_{part}_of_{jobs}.log",
                benchmark:
                    paths.benchmarks
                    / f"validate_{checkpoint_name}_{part}_of_{jobs}.tsv"
                conda:
                    "../envs/mobile_sam.yml"
                threads: threads_each
                resources:
                    gpu=gpus_by_word[measure_word],
                params:
                    settings=paths.settings,
                    what=checkpoint_name,
                    part=part,
                    depends_on=validation_settings(settings, checkpoint_name),
                message:
                    f"Validate {checkpoint_name} of run {run}, "
                    f"part {part + 1} of {jobs}; log: {{log}}"
                shell:
                    "exec python -m mobile_sam validate --what {params.what} --step part "
                    "--part {params.part} --config {params.settings} --log {log}"

        rule:
            name:
                rule_name(result_word, run, checkpoint_name)
            input:
                **files,
                parts=[paths.validation_part(checkpoint_name, part) for part in parts],
            output:
                table=paths.validation(checkpoint_name),
            log:
                paths.logs / f"validate_{checkpoint_name}.log",
            benchmark:
                paths.benchmarks / f"validate_{checkpoint_name}.tsv"
            conda:
                "../envs/mobile_sam.yml"
            resources:
                gpu=gpus_by_word[result_word],
            params:
                settings=paths.settings,
                what=checkpoint_name,
                step=step,
                depends_on=validation_settings(settings, checkpoint_name),
            message:
                f"Validate {checkpoint_name} of run {run}; log: {{log}}"
            shell:
                "exec python -m mobile_sam validate --what {params.what} {params.step} "
                "--config {params.settings} --log {log}"

    if run in measured_of_variant:
        continue  # all variants have one report
    for checkpoint_name in with_detections(settings):

        rule:
            name:
                rule_name("average_precision", run, checkpoint_name)
            input:
                detections=settings.detections,
                masks=paths.mask_dir("val"),
                weights=validated[checkpoint_name]["weights"],
            output:
                average_precision=paths.average_precision(checkpoint_name),
            log:
                paths.logs / f"average_precision_{checkpoint_name}.log",
            benchmark:
                paths.benchmarks / f"average_precision_{checkpoint_name}.tsv"
            conda:
                "../envs/mobile_sam.yml"
            threads: threads_each
            resources:
                gpu=1,
            params:
                settings=paths.settings,
                what=checkpoint_name,
                depends_on=validation_settings(settings, checkpoint_name),
            message:
                f"Measure the average precision of {checkpoint_name} of run {run}; log: {{log}}"
            shell:
                "exec python -m mobile_sam validate --what {params.what} --step ap "
                "--config {params.settings} --log {log}"

    rule:
        name:
            rule_name("report", run)
        input:
            **report_inputs(paths),
        output:
            page=report(
                paths.report / "index.html",
                category=settings.run_name,
                caption="../report/index.rst",
                labels={"part": "whole report"},
            ),
            summary=report(
                paths.report / "summary.csv",
                category=settings.run_name,
                caption="../report/summary.rst",
                labels={"part": "summary"},
            ),
            pictures=[
                report(
                    paths.report / f"{name}.png",
                    category=settings.run_name,
                    caption=f"../report/{name}.rst",
                    labels={"part": part},
                )
                for name, part in report_pictures(settings).items()
            ],
        log:
            paths.logs / "report.log",
        benchmark:
            paths.benchmarks / "report.tsv"
        conda:
            "../envs/mobile_sam.yml"
        params:
            settings=paths.settings,
            examples=settings.report_examples,
            main=exported_checkpoint(settings),
        message:
            f"Write the report of run {run}; log: {{log}}"
        shell:
            "exec python -m mobile_sam report --config {params.settings} --log {log} > /dev/null"


# With all cores, so that no other job runs at the same time.
for run, tables in validated_before_cost.items():
    paths, settings = PATHS[run], PATHS[run].config

    rule:
        name:
            rule_name("cost", run)
        input:
            validation=ancient(tables),
            compared=list(extra_checkpoints(settings).values()),
        output:
            cost=paths.cost,
        log:
            paths.logs / "cost.log",
        benchmark:
            paths.benchmarks / "cost.tsv"
        conda:
            "../envs/mobile_sam.yml"
        threads: threads_alone
        resources:
            gpu=1,
        params:
            settings=paths.settings,
            depends_on=cost_settings(settings),
        message:
            f"Measure latency and memory of the models of run {run}; log: {{log}}"
        shell:
            "exec python -m mobile_sam cost --config {params.settings} --log {log}"


# One report for runs on the same data, which can be compared.
for configs in comparable_runs(RUNS.alone):
    target = comparison_directory(configs)
    compared_paths = [PATHS[settings.run_name] for settings in configs]

    rule:
        name:
            rule_name("compare", target.name, of=target)
        input:
            reports=[paths.report / "index.html" for paths in compared_paths],
            validation=[
                table
                for paths in compared_paths
                for table in report_inputs(paths)["validation"]
            ],
        output:
            page=report(
                target / "index.html",
                category="comparison",
                caption="../report/index.rst",
                labels={"part": "whole report"},
            ),
            summary=report(
                target / "summary.csv",
                category="comparison",
                caption="../report/summary.rst",
                labels={"part": "summary"},
            ),
            pictures=[
                report(
                    target / f"{name}.png",
                    category="comparison",
                    caption=f"../report/{name}.rst",
                    labels={"part": part},
                )
                for name, part in comparison_pictures(configs).items()
            ],
        log:
            target / "compare.log",
        benchmark:
            target / "compare.tsv"
        conda:
            "../envs/mobile_sam.yml"
        params:
            settings=[paths.settings for paths in compared_paths],
            target=target,
        message:
            f"Compare the runs of {target.name}; log: {{log}}"
        shell:
            "exec python -m mobile_sam compare --runs {params.settings} --out {params.target} "
            "--log {log} > /dev/null"
