"""What every part shares: errors, configs, knobs, files, the artefact store, progress.

Imports nothing else of the package. Import from the modules: `from chunkwise.core.store import
Store`.
"""
