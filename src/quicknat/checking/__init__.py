"""What is looked at before anything is computed: a cohort's files, and the room it takes."""
