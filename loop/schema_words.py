"""What an editor shows of each key of the campaign file; in full, docs/campaign-file.md tells it.

A test asks for a sentence for every key. How the schema is made belongs in `loop.schema`.
"""

_NAME = "Its name in the history, in tables and in files."
_UNIT = "The unit of its values. A table told in another unit is refused; nothing is converted."
_IDEMPOTENT = "A repeated key neither acts nor bills again; else a call that was cut off stays unknown."
_NAMED = "What the history knows the oracle by."
_BATCH = "Requests in one call at most."
_CONCURRENCY = "Calls at the same time."
_RATE = "Calls begun in a second at most."
_POSTED_BY = "The environment variable with the token by which results are posted to `flowscout serve-results`."
_PRICE = "US dollars for each call, 0 or at least 0.01; counted against budget.cost."

WORDS: dict[str, dict[str, str]] = {
    "CampaignConfig": {
        "campaign": "The campaign's name: letters, digits, dots, dashes, underscores. Its SQLite file has it too.",
        "space": "What can be built.",
        "objectives": "What is wanted: a list of one property with its direction.",
        "properties": "Further properties that results may bring: kept and shown, not optimised.",
        "oracle": "Who measures: a section with a type, or module:function in short.",
        "surrogate": "What is learned from the measurements.",
        "acquisition": "What makes a candidate worth measuring.",
        "proposer": "Who proposes candidates.",
        "batch": "How many are measured in a round, and how they are chosen.",
        "budget": "When to stop.",
        "stop": "What ends the campaign before its budget does.",
        "approve": "true: every batch waits for `flowscout approve` before it is handed out.",
        "health": "hold: a batch of a surrogate or sampler that fails its health check waits for approval.",
        "notify": "Who is told when something happens.",
        "seed": "Every random choice follows from it; drawn and stored if it is left out.",
        "device": "Where the sampler is trained; auto: on a GPU if there is one.",
        "artefacts": "The URL of a store that all machines reach, such as s3://BUCKET/FOLDER.",
    },
    "SequenceSection": {
        "type": "All sequences of one length over an alphabet.",
        "alphabet": "dna, rna, protein, or distinct letters of your own, as a text or a list.",
        "length": "Letters of every object.",
        "strand": "double: a sequence and its reverse complement are one object (dna, rna).",
        "letters": "The letters that some positions may have, counted from 1: {1: M, 7: [D, E]}.",
        "wild_type": "A sequence; with max_mutations, what is built differs from it in so many positions at most.",
        "max_mutations": "How many positions may differ from the wild type.",
        "forbid": "Motifs that stand nowhere: letters, x or . for any letter, classes such as [ST] and [^P].",
        "gc": "The least and the largest share of G and C.",
        "homopolymer": "The longest run of one letter that is allowed.",
    },
    "CatalogueSection": {
        "type": "A list of what can be bought or made, in a CSV file.",
        "path": "The CSV file (.csv, .csv.gz), relative to the campaign file.",
        "object": "The column of names, no name twice; the first if it is left out.",
        "features": "The columns of numbers to learn from; every numeric one but the objective's if left out.",
        "metric": "euclid on standardised features; tanimoto for counts and fingerprints.",
    },
    "ObjectiveSection": {
        "name": _NAME,
        "direction": "Whether large values are good or small ones.",
        "unit": _UNIT,
        "transform": "What the surrogate learns of the value; the value is stored and ranked as it was measured.",
        "normalize": "Make it from another property and the controls of its plate.",
    },
    "NormalizeSection": {
        "raw": "The property that is read, such as a signal.",
        "formula": "percent_of_control: 0 is the mean of the wells named negative, 100 of those named positive.",
    },
    "PropertySection": {"name": _NAME, "unit": _UNIT},
    "TableSection": {
        "type": "Values measured before, looked up in a CSV file.",
        "path": "The CSV file, relative to the campaign file; or one that is shipped: flowscout:tfbind8_six6.",
        "object": "The column of objects; the first if it is left out.",
        "value": "The column of values; the one named like the objective, else the second.",
        "cost_usd": _PRICE,
    },
    "CallableSection": {
        "type": "A Python function.",
        "function": "module:function, beside the campaign file or in an installed package.",
        "cost_usd": _PRICE,
        "batch": "Objects in one call at most; all that wait, if it is left out.",
        "concurrency": _CONCURRENCY,
        "run_in": "thread; process: a process of its own, ended when a call takes too long.",
        "timeout_s": "Seconds that a call may take.",
        "rate_per_s": _RATE,
        "idempotent": _IDEMPOTENT,
        "name": _NAMED,
        "version": _NAMED,
        "fidelity": _NAMED,
    },
    "ProcessSection": {
        "type": "A program that reads and writes lines of JSON, or is started for each {object}.",
        "command": "The program and its arguments, run in this folder; no shell reads it.",
        "cost_usd": _PRICE,
        "batch": "Requests given to one start at most; all that wait, if it is left out.",
        "concurrency": "How many run at the same time.",
        "timeout_s": "Seconds that a call may take; then it is killed with all that it has started.",
        "rate_per_s": _RATE,
        "keep": "Start it once and feed it call after call.",
        "idempotent": _IDEMPOTENT,
        "name": _NAMED,
        "version": _NAMED,
        "fidelity": _NAMED,
    },
    "HttpSection": {
        "type": "A service that requests are posted to as JSON.",
        "url": "Its address; no user or password in it.",
        "name": _NAMED,
        "version": _NAMED,
        "fidelity": _NAMED,
        "cost_usd": _PRICE,
        "idempotent": _IDEMPOTENT,
        "answers": "at_once; poll: it is asked again after a 202; call_back: it posts the answer later.",
        "secret_env": "The environment variable with the secret that it asks for.",
        "token_env": _POSTED_BY,
        "lookup_url": "Where to ask what came of calls that were cut off.",
        "batch": _BATCH,
        "concurrency": _CONCURRENCY,
        "rate_per_s": _RATE,
        "timeout_s": "Seconds until an answer must be there.",
        "tries": "How often one call is sent.",
    },
    "LabSection": {
        "type": "People at a bench: nothing is called, the batch waits for `flowscout tell`.",
        "name": "Its name in the history.",
        "cost_usd": "US dollars for each measurement: reserved when a batch is handed out, spent when it is told.",
        "token_env": _POSTED_BY,
    },
    "PlugInSection": {"type": "A type of oracle that an installed package brings; its other keys are its own."},
    "SurrogateSection": {
        "type": "auto, gp, linear, ensemble, svgp, or module:function for one of your own.",
        "kernel": "Of a gp.",
    },
    "AcquisitionSection": {
        "type": "ucb: mean + kappa x sd; log_ei: expected improvement; mes: information; thompson: one draw.",
        "kappa": "Of ucb and q_ucb: how far the pool reaches beyond what is believed to be good.",
    },
    "ProposerSection": {
        "type": "auto is a mixture of a GFlowNet and local search, half each.",
        "loss": "What a GFlowNet is trained by; with anchors the second.",
        "steps": "Training steps of a GFlowNet in a round.",
        "exponent": "Of the reward; without one it follows from the size of the space.",
        "anchors": "Share of a GFlowNet's training batches that ends in good labelled objects and edits of them.",
        "warm_start": "Whether a policy starts from the weights of the round before.",
        "evaluations": "Objects that local_search and genetic score in a round.",
        "shares": "Of a mixture: who makes which share of the samples; they sum to 1.",
    },
    "BatchSection": {
        "size": "Objects in a round.",
        "explore": "Share of the batch taken outside the mode of the best; early: in the first rounds.",
        "drift": "Share of the batch that looks for the way off a plateau.",
        "select": "How a batch is chosen from the pool.",
        "distance": "No two of a batch are nearer, while there are others; auto: a sixteenth of long ones.",
        "replicates": "How often each object of a batch is measured.",
    },
    "BudgetSection": {
        "rounds": "How many rounds.",
        "cost": "US dollars; a call whose price would exceed it is not made.",
    },
    "StopSection": {
        "target": "The campaign ends when the best candidate has this value or a better one.",
        "no_improvement": "It ends after so many rounds without a new best.",
        "acquisition_below": "It ends when the latest batch promised less, in units of what is learned.",
    },
    "NotifySection": {
        "on": "Of what is told.",
        "command": "A program and its arguments, run in this folder with the event as JSON on its standard input.",
        "webhook": "An address that the event is posted to as JSON.",
        "secret_env": "The environment variable with the secret that a webhook is signed with.",
        "timeout_s": "A command that takes longer is ended with what it has started.",
    },
}
"""By section and key. A section's own description is its docstring."""
