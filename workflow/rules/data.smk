# Index and teacher features, from images and masks; the runs of a project share both.

# One rule for each data set, for all runs that use it.
for paths in {paths.dataset: paths for paths in PATHS.values()}.values():
    dataset = paths.dataset.name

    if paths.config.train_img_dir is None:

        rule:
            name:
                rule_name("synthesize", dataset, of=paths.dataset)
            output:
                manifest=paths.synthetic_manifest,
            log:
                paths.shared_logs / "synthesize.log",
            benchmark:
                paths.shared_logs / "synthesize.tsv"
            priority: urgent
            conda:
                "../envs/mobile_sam.yml"
            params:
                settings=paths.dataset_settings,
            message:
                f"Draw the images and masks of {dataset}; log: {{log}}"
            shell:
                "exec python -m mobile_sam synthesize --config {params.settings} --log {log}"

    rule:
        name:
            rule_name("index", dataset, of=paths.dataset)
        input:
            **dataset_inputs(paths),
        output:
            index=paths.index,
        log:
            paths.shared_logs / "index.log",
        benchmark:
            paths.shared_logs / "index.tsv"
        priority: urgent
        conda:
            "../envs/mobile_sam.yml"
        threads: 8
        params:
            settings=paths.dataset_settings,
            # Names, sizes and times of the files; the time of a directory does not count. Only the
            # rule of the index examines them, and not each job that is submitted.
            files=lambda wildcards, of=paths.config: fingerprint_once(of),
        message:
            f"Read the images and masks of {dataset}; log: {{log}}"
        shell:
            "exec python -m mobile_sam index --config {params.settings} --workers {threads} "
            "--log {log} > /dev/null"


# Known data sets and checkpoints, in the user's cache, for all runs.
for name, fetched in fetched_files(RUNS).items():
    fetch_log = PATHS[RUNS.named[0].run_name].project_logs / f"fetch_{name}"

    rule:
        name:
            rule_name("fetch", name)
        output:
            file=fetched,
        log:
            fetch_log.with_suffix(".log"),
        benchmark:
            fetch_log.with_suffix(".tsv")
        priority: urgent
        localrule: True  # nodes of a cluster often have no internet access
        conda:
            "../envs/mobile_sam.yml"
        params:
            name=name,
        message:
            f"Download {name}; log: {{log}}"
        shell:
            "exec python -m mobile_sam fetch {params.name} --log {log}"


# One extraction for each store and data set, for all runs that read them. The Zarr store itself is
# not declared, because Snakemake would delete it with a killed job. Its manifest is declared, and
# every reader checks it.
extractions = {
    teacher.features_manifest: teacher
    for run in PATHS.values()
    if needs_features(run.config)
    for teacher in run.teachers
}
stores = {}  # the manifests of the data sets that share a store, which extract in turns
for paths in extractions.values():
    before = stores.setdefault(paths.features, [])
    store = (paths.dataset.name, paths.features_name)
    rule_of_store = partial(rule_name, of=paths.features_manifest)
    jobs = paths.config.extract_jobs
    gpus_held = min(gpus, paths.config.devices)

    rule:
        name:
            rule_of_store("plan_features", *store)
        input:
            **teacher_inputs(paths),
            index=paths.index,
            turn=ancient(before[-1:]),
        output:
            plan=paths.features_plan,
        log:
            paths.shared_logs / f"plan_{paths.features_name}.log",
        benchmark:
            paths.shared_logs / f"plan_{paths.features_name}.tsv"
        priority: urgent
        conda:
            "../envs/mobile_sam.yml"
        threads: threads_held
        resources:
            gpu=gpus_held,
        params:
            settings=paths.features_settings,
        message:
            f"Plan the teacher features {paths.features_name}; log: {{log}}"
        shell:
            "exec python -m mobile_sam extract --step plan --config {params.settings} --log {log}"

    before.append(paths.features_manifest)
    for part in range(jobs):

        rule:
            name:
                rule_of_store("extract", *store, part, "of", jobs)
            input:
                **teacher_inputs(paths),
                plan=paths.features_plan,
                index=paths.index,
            output:
                part=paths.features_part(part),
            log:
                paths.shared_logs
                / f"extract_{paths.features_name}_{part}_of_{jobs}.log",
            benchmark:
                paths.shared_logs
                / f"extract_{paths.features_name}_{part}_of_{jobs}.tsv"
            priority: urgent
            conda:
                "../envs/mobile_sam.yml"
            threads: threads_each
            resources:
                gpu=1,
            params:
                settings=paths.features_settings,
                part=part,
            message:
                f"Compute the teacher features {paths.features_name}, "
                f"part {part + 1} of {jobs}; log: {{log}}"
            shell:
                "exec python -m mobile_sam extract --step part --part {params.part} "
                "--config {params.settings} --log {log}"

    rule:
        name:
            rule_of_store("features", *store)
        input:
            index=paths.index,
            parts=[paths.features_part(part) for part in range(jobs)],
        output:
            manifest=paths.features_manifest,
        log:
            paths.shared_logs / f"features_{paths.features_name}.log",
        benchmark:
            paths.shared_logs / f"features_{paths.features_name}.tsv"
        priority: urgent
        conda:
            "../envs/mobile_sam.yml"
        threads: threads_held
        resources:
            gpu=gpus_held,
        params:
            settings=paths.features_settings,
        message:
            f"Check the teacher features {paths.features_name}; log: {{log}}"
        shell:
            "exec python -m mobile_sam extract --step finish --config {params.settings} --log {log}"
