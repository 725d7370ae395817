"""Pictures of what models predict: contact sheet, score maps, embeddings, clusters. ``drawing`` is the kit of all."""
