"""The pipeline: what the notebooks of notebooks/pipeline share.

places, locks, grid, config         where things are, one writer at a time, params.yaml
environment, workers                the same bits everywhere; processes that do runs
batches, devices, checkpoints       examples as tensors; where a run happens; going on from a file
train                               the training loop
runner                              runs over Dask, resumable
experiments                         what runs have in common
pretraining, choosing, truncation, retraining    the runs of each phase
robustness, care                    longer inputs and moved numbers: accuracies, and their tables
channel                             one channel of one layer, before and after
statistics, answers                 intervals and paired gains; what they say, in words
styles, figures, care_figures       the study's figures
notebook, multi_device              a stage; one run on several devices
"""
