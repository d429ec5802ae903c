//! `ctrlr`: the controller.
