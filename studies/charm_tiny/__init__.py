"""The embedded checkpoint `charm-tiny`: how it was made, its cross-validation and its baselines.

    DISTILL="examples/distill.py --config studies/charm_tiny/distill.yaml --photos PHOTOS --feature_cache MAPS \
        --teacher studies.charm_tiny.teachers:EfficientNetLite2 studies.charm_tiny.teachers:NimaMobileNet=NIMA.hdf5"
    python -m studies.charm_tiny.debian_photos UNPACKED PHOTOS/debian
    python -m studies.charm_tiny.start --photos PHOTOS --output_dir runs/start
    python $DISTILL --model_name_or_path runs/start --output_dir runs/small --num_views 16000 --learning_rate 2e-3 \
        --lr_scheduler_type constant_with_warmup --min_longest_edge 224 --max_longest_edge 272 --random_selection 0 \
        --ema_decay 0.998
    python $DISTILL --model_name_or_path runs/small --output_dir runs/large --num_views 24000 --learning_rate 1.2e-3 \
        --warmup_ratio 0.06 --min_longest_edge 384 --random_selection 0.3 --ema_decay 0.99
    python -m studies.charm_tiny.head --model_name_or_path runs/large --photos PHOTOS --feature_cache MAPS \
        --data_dir OASIS --output_dir runs/headed                                                    # and --fold 0 … 4
    python -m studies.charm_tiny.publish runs/headed

`PHOTOS` holds photos without ratings, `OASIS` `images/` and `ratings.csv` (columns `image`, `category`, `split`, votes
`c1` to `c7`). Neither distillation sees a rated photo, so all folds share them; `head` keeps its fold out.
`results.csv` has the folds. The shipped weights come from these commands, except that the first distillation lost its
linear maps to the teachers, and that the second was stopped at step 320 of 375.

`run.py`, with `pretrain.py`, is the first recipe (statistics of the rated photos, no teacher;
`results_first_recipe.csv`), and `baselines.py` what both are compared with.
"""
