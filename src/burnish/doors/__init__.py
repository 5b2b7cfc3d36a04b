"""What the verbs beside the pipeline do, one file a subject."""
