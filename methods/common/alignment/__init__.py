"""Class statistics of features, and what is trained on samples from them: classifiers, task inference, outliers."""
