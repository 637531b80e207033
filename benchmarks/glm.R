# Rscript glm.R GIVEN TAKEN count n p: logistic fits by stats::glm.fit, one after the other; writes seconds, coefficients.
given <- commandArgs(trailingOnly = TRUE)
size <- as.integer(given[3:5]); count <- size[1]; n <- size[2]; p <- size[3]
numbers <- readBin(given[1], "double", count * n * (p + 2))
x <- array(numbers[seq_len(count * n * p)], c(n, p, count))
rest <- array(numbers[-seq_len(count * n * p)], c(n, count, 2))
coefficients <- matrix(0, p, count)
control <- glm.control(epsilon = 1e-12, maxit = 25)
family <- binomial()
begin <- Sys.time()
for (i in seq_len(count))
  coefficients[, i] <- suppressWarnings(
    glm.fit(x[, , i], rest[, i, 1], weights = rest[, i, 2], family = family, control = control))$coefficients
seconds <- as.double(Sys.time() - begin, units = "secs")
writeBin(c(seconds, coefficients), given[2])
