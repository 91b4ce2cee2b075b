# Validation of each checkpoint of the named runs, and their reports.

for paths in [PATHS[settings.run_name] for settings in RUNS.named]:
    settings = paths.config
    run = rule_name(settings.run_name)
    teacher = [paths.teacher_weights] if paths.teacher_weights else []
    start = [paths.start_weights] if paths.start_weights else []
    needed = {
        "box_filled": [],
        "start": start + (teacher if settings.decoder_from_teacher else []),
    }
    needed |= {
        name: [paths.checkpoint(stage, kept)]
        # Where the best epoch is the last one, the table is there and is not measured again.
        + ([paths.validation(stage.directory)] if kept == "best" else [])
        for name, (stage, kept) in trained(settings).items()
    }
    for name, alone in named_teachers(settings).items():
        weights = RunPaths(alone).teacher_weights
        needed[name] = [weights] if weights else []
    needed |= {name: [weights] for name, weights in compared(settings).items()}
    jobs = settings.validate_jobs

    for what in validated(settings):
        # What needs no GPU does not begin with `validate`: a cluster gives by the beginning.
        measuring = "baseline" if what == BOX_FILLED else "validate"
        joining = "join" if jobs > 1 else measuring
        for part in range(jobs if jobs > 1 else 0):

            rule:
                name:
                    f"{measuring}_{run}_{rule_name(what)}_{part}_of_{jobs}"
                input:
                    paths.index,
                    needed[what],
                output:
                    temp(paths.validation_part(what, part)),
                log:
                    paths.logs / f"validate_{what}_{part}_of_{jobs}.log",
                benchmark:
                    paths.benchmarks / f"validate_{what}_{part}_of_{jobs}.tsv"
                threads: 8
                params:
                    settings=paths.settings,
                    what=what,
                    part=part,
                    depends_on=validation_settings(settings, what),
                shell:
                    "exec python -m mobile_sam validate --what {params.what} --step part "
                    "--part {params.part} --config {params.settings} --log {log}"

        rule:
            name:
                f"{joining}_{run}_{rule_name(what)}"
            input:
                paths.index,
                needed[what],
                (
                    [paths.validation_part(what, part) for part in range(jobs)]
                    if jobs > 1
                    else []
                ),
            output:
                paths.validation(what),
            log:
                paths.logs / f"validate_{what}.log",
            benchmark:
                paths.benchmarks / f"validate_{what}.tsv"
            params:
                settings=paths.settings,
                what=what,
                step="--step join" if jobs > 1 else "",
                depends_on=validation_settings(settings, what),
            shell:
                "exec python -m mobile_sam validate --what {params.what} {params.step} "
                "--config {params.settings} --log {log}"

        if settings.detections and what != BOX_FILLED:

            rule:
                name:
                    f"average_precision_{run}_{rule_name(what)}"
                input:
                    settings.detections,
                    paths.mask_dir("val"),
                    needed[what],
                output:
                    paths.average_precision(what),
                log:
                    paths.logs / f"average_precision_{what}.log",
                benchmark:
                    paths.benchmarks / f"average_precision_{what}.tsv"
                threads: 8
                params:
                    settings=paths.settings,
                    what=what,
                    depends_on=validation_settings(settings, what),
                shell:
                    "exec python -m mobile_sam validate --what {params.what} --step ap "
                    "--config {params.settings} --log {log}"

    if settings.cost_repeats:

        rule:
            name:
                f"cost_{run}"
            input:
                # Latency is measured last, and alone.
                ancient([paths.validation(what) for what in validated(settings)]),
                list(compared(settings).values()),
            output:
                paths.cost,
            log:
                paths.logs / "cost.log",
            benchmark:
                paths.benchmarks / "cost.tsv"
            threads: workflow.cores or 8
            params:
                settings=paths.settings,
                depends_on=cost_settings(settings),
            shell:
                "exec python -m mobile_sam cost --config {params.settings} --log {log}"

    rule:
        name:
            f"report_{run}"
        input:
            paths.index,
            [paths.validation(what) for what in validated(settings)],
            [paths.metrics(stage) for stage in normalise(settings)],
            (
                [
                    paths.average_precision(what)
                    for what in validated(settings)
                    if what != BOX_FILLED
                ]
                if settings.detections
                else []
            ),
            [paths.cost] if settings.cost_repeats else [],
        output:
            report(
                paths.report / "index.html",
                category=settings.run_name,
                caption="../report/index.rst",
                labels={"part": "whole report"},
            ),
            report(
                paths.report / "summary.csv",
                category=settings.run_name,
                caption="../report/summary.rst",
                labels={"part": "summary"},
            ),
            [
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
        params:
            settings=paths.settings,
            examples=settings.report_examples,
            main=exported(settings),
        shell:
            "exec python -m mobile_sam report --config {params.settings} --log {log} > /dev/null"


# One report for several runs whose numbers compare.
for configs in comparable(RUNS.named):
    target = comparison(configs)
    compared_paths = [PATHS[settings.run_name] for settings in configs]

    rule:
        name:
            f"compare_{rule_name(target.name)}"
        input:
            [paths.report / "index.html" for paths in compared_paths],
            [
                paths.validation(what)
                for paths in compared_paths
                for what in validated(paths.config)
            ],
        output:
            report(
                target / "index.html",
                category="comparison",
                caption="../report/index.rst",
                labels={"part": "whole report"},
            ),
            report(
                target / "summary.csv",
                category="comparison",
                caption="../report/summary.rst",
                labels={"part": "summary"},
            ),
            [
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
        params:
            settings=[paths.settings for paths in compared_paths],
            target=target,
        shell:
            "exec python -m mobile_sam compare --runs {params.settings} --out {params.target} "
            "--log {log} > /dev/null"
