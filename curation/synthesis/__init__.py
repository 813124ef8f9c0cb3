"""Sources made by a model: a template filled from documents of other sources, answered, parsed into documents."""
