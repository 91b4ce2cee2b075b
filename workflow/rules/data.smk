# From images and masks to an index and to teacher features; runs of a project share both.

# One rule for each data set, whichever runs use it.
for paths in {paths.dataset: paths for paths in PATHS.values()}.values():
    dataset = rule_name(paths.dataset.name)
    public = known_dataset(paths.config)
    made = [paths.synthetic_manifest] if paths.config.train_img_dir is None else []
    made += [public.manifest] if public else []

    if public:

        rule:
            name:
                f"fetch_{public.name}"
            output:
                public.manifest,
            log:
                paths.shared_logs / "fetch.log",
            benchmark:
                paths.shared_logs / "fetch.tsv"
            localrule: True  # nodes of a cluster seldom see the internet
            params:
                name=public.name,
            shell:
                "exec python -m mobile_sam fetch {params.name} --log {log}"

    if paths.config.train_img_dir is None:

        rule:
            name:
                f"synthesize_{dataset}"
            output:
                paths.synthetic_manifest,
            log:
                paths.shared_logs / "synthesize.log",
            benchmark:
                paths.shared_logs / "synthesize.tsv"
            params:
                settings=paths.dataset_settings,
            shell:
                "exec python -m mobile_sam synthesize --config {params.settings} --log {log}"

    rule:
        name:
            f"index_{dataset}"
        input:
            made,
        output:
            paths.index,
        log:
            paths.shared_logs / "index.log",
        benchmark:
            paths.shared_logs / "index.tsv"
        threads: 8
        params:
            settings=paths.dataset_settings,
            # Names, sizes and times of the files; a touched directory changes nothing. They are
            # looked at for the index alone, and not by each job that is submitted.
            files=lambda wildcards, of=paths.config: fingerprint(of),
        shell:
            "exec python -m mobile_sam index --config {params.settings} --workers {threads} "
            "--log {log} > /dev/null"


# Known checkpoints are kept in the user's cache.
for checkpoint in sorted(known_checkpoints(RUNS)):

    rule:
        name:
            f"fetch_{checkpoint}"
        output:
            checkpoint_path(checkpoint),
        log:
            "results/logs/" + f"fetch_{checkpoint}.log",
        benchmark:
            "results/logs/" + f"fetch_{checkpoint}.tsv"
        localrule: True
        params:
            checkpoint=checkpoint,
        shell:
            "exec python -m mobile_sam fetch {params.checkpoint} --log {log}"


# One extraction for each store, whichever runs read it. The Zarr store itself is not declared:
# Snakemake would delete it with a killed job. Its manifest is, and every reader checks the store.
for paths in {
    teacher.features: teacher
    for run in PATHS.values()
    if needs_features(run.config)
    for teacher in run.teachers
}.values():
    store = rule_name(f"{paths.dataset.name}_{paths.features.stem}")
    teacher = [paths.teacher_weights] if paths.teacher_weights else []
    jobs = paths.config.extract_jobs

    rule:
        name:
            f"plan_features_{store}"
        input:
            paths.index,
            teacher,
        output:
            paths.features_plan,
        log:
            paths.shared_logs / f"plan_{paths.features.stem}.log",
        benchmark:
            paths.shared_logs / f"plan_{paths.features.stem}.tsv"
        params:
            settings=paths.features_settings,
        shell:
            "exec python -m mobile_sam extract --step plan --config {params.settings} --log {log}"

    for part in range(jobs):

        rule:
            name:
                f"extract_{store}_{part}_of_{jobs}"
            input:
                paths.features_plan,
                paths.index,
                teacher,
            output:
                paths.features_part(part),
            log:
                paths.shared_logs
                / f"extract_{paths.features.stem}_{part}_of_{jobs}.log",
            benchmark:
                paths.shared_logs
                / f"extract_{paths.features.stem}_{part}_of_{jobs}.tsv"
            threads: 8
            params:
                settings=paths.features_settings,
                part=part,
            shell:
                "exec python -m mobile_sam extract --step part --part {params.part} "
                "--config {params.settings} --log {log}"

    rule:
        name:
            f"features_{store}"
        input:
            paths.index,
            [paths.features_part(part) for part in range(jobs)],
        output:
            paths.features_manifest,
        log:
            paths.shared_logs / f"features_{paths.features.stem}.log",
        benchmark:
            paths.shared_logs / f"features_{paths.features.stem}.tsv"
        params:
            settings=paths.features_settings,
        shell:
            "exec python -m mobile_sam extract --step finish --config {params.settings} --log {log}"
