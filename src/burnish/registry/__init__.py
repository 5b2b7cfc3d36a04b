"""Which trained adapters may be used: the gate's verdict, releases in MLflow, model cards.

Knows artifacts and, in one file, MLflow. Knows no data, no training, no tensor. Our JSON is the truth.
"""
