# Reference penalized fits of R's brglm2: type "AS_mean" (adjusted scores, mean bias reduction) and "MPL_Jeffreys"
# (maximum of the likelihood times the root of the determinant of the expected information).
# Run in this directory: Rscript make_firth.R   -> firth.json.gz (fields: see __init__.py)

suppressPackageStartupMessages({
  library(MASS)
  library(brglm2)
})
source("json.R")
options(contrasts = c("contr.treatment", "contr.treatment"), warn = 1)

link_names <- c(logit = "Logit", probit = "Probit", cauchit = "Cauchy", cloglog = "CLogLog", log = "Log",
                identity = "Identity", sqrt = "Sqrt")
type_names <- c(AS_mean = "MeanBiasReduction", MPL_Jeffreys = "Jeffreys")

fit_case <- function(set, link, type) {
  make <- if (set$family == "Binomial") binomial else poisson
  data <- as.data.frame(set$data)
  frame <- model.frame(set$formula, data)
  offset <- model.offset(frame)
  X <- model.matrix(set$formula, data)
  response <- model.response(frame)
  trials <- if (is.matrix(response)) rowSums(response) else rep(1, nrow(X))
  y <- if (is.matrix(response)) ifelse(trials > 0, response[, 1] / trials, 0) else as.numeric(response)
  family <- make(link)
  if (is.null(offset)) offset <- rep(0, nrow(X))
  # Started as brglm2 likes, else from the intercept alone, with full steps, else shorter ones.
  flat <- replace(numeric(ncol(X)), 1, family$linkfun(weighted.mean(y, trials)))
  for (from in list(list(NULL, 1), list(flat, 1), list(NULL, 0.3), list(flat, 0.3), list(flat, 0.05))) {
    found <- stationary(X, y, trials, offset, family, type, from[[1]], from[[2]])
    if (found$step < 1e-10) break
  }
  label <- sprintf("%-14s %-9s %-13s", set$name, link, type)
  if (found$step > 1e-10) {
    message(label, "dropped: no stationary answer; ", found$reason)
    return(NULL)
  }
  params <- found$params
  eta <- drop(X %*% params) + offset
  mu <- family$linkinv(eta)
  information <- crossprod(X * (family$mu.eta(eta)^2 / family$variance(mu) * trials), X)
  llf <- if (set$family == "Binomial") {
    sum(dbinom(round(y * trials), trials, mu, log = TRUE))
  } else {
    sum(dpois(y, mu, log = TRUE))
  }
  vcov <- solve(information)
  message(label, sprintf("last refit moved %.1e, largest estimate %.3g", found$step, max(abs(params))))
  out <- list(
    name = paste(set$name, link, type, sep = "_"), source = set$source,
    formula = paste(deparse(set$formula, 500), collapse = ""), family = set$family, link = link_names[[link]],
    penalty = type_names[[type]], columns = vec(colnames(X)), X = unname(X), y = vec(y),
    trials = if (is.matrix(response)) vec(trials), offset = if (any(offset != 0)) vec(offset),
    params = vec(params), bse = vec(sqrt(diag(vcov))), cov = unname(vcov), deviance = found$deviance, llf = llf,
    penalized_llf = if (type == "MPL_Jeffreys") llf + 0.5 * as.numeric(determinant(information)$modulus), polish = found$step
  )
  if (link == "logit" && type == "MPL_Jeffreys" && all(offset == 0)) {
    out$profile <- penalized_profile(X, y, trials, params)
  }
  out
}

# brglm2 stops at a small step; it is run again from its own answer until that no longer moves.
stationary <- function(X, y, trials, offset, family, type, start, slow) {
  control <- brglmControl(type = type, epsilon = 1e-13, maxit = 20000, slowit = slow)
  step <- Inf
  for (round in 1:6) {
    fit <- tryCatch(
      suppressWarnings(brglm_fit(X, y, trials, start = start, offset = offset, family = family, control = control)),
      error = conditionMessage
    )
    if (is.character(fit)) return(list(step = Inf, reason = fit))
    if (anyNA(fit$coefficients)) return(list(step = Inf, reason = "missing coefficients"))
    if (round > 1) step <- max(abs(fit$coefficients - start) / pmax(abs(start), 1e-8))
    start <- fit$coefficients
    if (step < 1e-13) break
  }
  list(step = step, params = start, deviance = fit$deviance, reason = sprintf("the last refit moved %.1e", step))
}

# Penalized likelihood-ratio tests of each coefficient and 95% profile intervals (Heinze and Schemper 2002), for logit: the
# penalty keeps the information of all columns while one coefficient is held fixed.
penalized_profile <- function(X, y, trials, params, level = 0.95) {
  penalized <- function(beta) {
    mu <- plogis(drop(X %*% beta))
    information <- crossprod(X * (trials * mu * (1 - mu)), X)
    sum(dbinom(round(y * trials), trials, mu, log = TRUE)) + 0.5 * as.numeric(determinant(information)$modulus)
  }
  maximize <- function(beta, free) {
    for (i in 1:2000) {
      mu <- plogis(drop(X %*% beta))
      w <- trials * mu * (1 - mu)
      information <- crossprod(X * w, X)
      hat <- w * rowSums((X %*% solve(information)) * X)
      score <- crossprod(X[, free, drop = FALSE], trials * (y - mu) + hat * (0.5 - mu))
      step <- solve(information[free, free], score)
      step <- step * min(1, 2 / max(abs(step)))
      while (penalized(replace(beta, free, beta[free] + step)) < penalized(beta) - 1e-9) step <- step / 2
      beta[free] <- beta[free] + step
      if (max(abs(step)) < 1e-14 * max(1, abs(beta))) break
    }
    beta
  }
  top <- penalized(params)
  se <- sqrt(diag(solve(crossprod(X * (trials * plogis(X %*% params) * plogis(-X %*% params))[, 1], X))))
  stopifnot(max(abs(maximize(params, seq_along(params)) - params) / se) < 1e-10)
  drop_at <- function(j, value) {
    start <- replace(params, j, value)
    2 * (top - penalized(maximize(start, setdiff(seq_along(params), j))))
  }
  cut <- qchisq(level, 1)
  end <- function(j, sign) {
    uniroot(function(v) drop_at(j, v) - cut, sort(params[j] + sign * c(0.5, 4) * se[j]),
            extendInt = if (sign > 0) "upX" else "downX", tol = 1e-12 * se[j])$root
  }
  index <- seq_along(params)
  statistic <- vapply(index, function(j) drop_at(j, 0), 0)
  list(level = level, lr = vec(statistic), lr_pvalue = vec(pchisq(statistic, 1, lower.tail = FALSE)),
       conf_int = t(vapply(index, function(j) c(end(j, -1), end(j, 1)), c(0, 0))))
}

of <- function(package, name) {
  env <- new.env()
  data(list = name, package = package, envir = env)
  env[[name]]
}
binomial_links <- c("logit", "probit", "cauchit", "cloglog", "log")
poisson_links <- c("log", "sqrt", "identity")
toy <- data.frame(y = c(0, 0, 0, 0, 1, 1, 1, 1), x = c(-2.1, -1.4, -0.9, -0.2, 0.3, 0.8, 1.7, 2.6))
quiet <- data.frame(y = c(0, 0, 0, 0, 3, 1, 4, 2, 6, 5), group = rep(0:1, c(4, 6)),
                    x = c(0.2, -0.7, 1.1, 0.4, -0.3, -1.2, 0.8, 0.1, 1.5, 0.9))
nodal <- of("boot", "nodal")
ucb <- datasets::UCBAdmissions
ucb <- data.frame(expand.grid(dimnames(ucb)[2:3]), admitted = c(ucb[1, , ]), rejected = c(ucb[2, , ]))
sets <- list(
  list(name = "endometrial", source = "brglm2::endometrial", family = "Binomial", formula = HG ~ NV + PI + EH,
       data = of("brglm2", "endometrial"), links = binomial_links),
  list(name = "lizards", source = "brglm2::lizards", family = "Binomial",
       formula = cbind(grahami, opalinus) ~ height + diameter + light + time, data = of("brglm2", "lizards"),
       links = binomial_links),
  list(name = "birthwt", source = "MASS::birthwt", family = "Binomial", formula = low ~ smoke + ht + ui + lwt,
       data = within(MASS::birthwt, lwt <- lwt / 100), links = binomial_links),
  list(name = "nodal", source = "boot::nodal", family = "Binomial", formula = r ~ aged + stage + grade + xray + acid,
       data = nodal, links = binomial_links),
  list(name = "separated", source = "made here: complete separation", family = "Binomial", formula = y ~ x, data = toy,
       links = binomial_links),
  list(name = "ucb", source = "datasets::UCBAdmissions", family = "Binomial",
       formula = cbind(admitted, rejected) ~ Gender + Dept, data = ucb, links = c("logit", "log")),
  list(name = "downs", source = "boot::downs.bc", family = "Binomial", formula = cbind(r, m - r) ~ age + I(age^2),
       data = within(of("boot", "downs.bc"), age <- (age - 30) / 10), links = c("logit", "log")),
  list(name = "warpbreaks", source = "datasets::warpbreaks", family = "Poisson", formula = breaks ~ wool * tension,
       data = datasets::warpbreaks, links = poisson_links),
  list(name = "ships", source = "MASS::ships", family = "Poisson",
       formula = incidents ~ type + factor(year) + factor(period) + offset(log(service)),
       data = subset(MASS::ships, service > 0), links = "log"),
  list(name = "quiet_group", source = "made here: a group of zeros", family = "Poisson", formula = y ~ group + x,
       data = quiet, links = "log")
)
cases <- list()
for (set in sets) for (link in set$links) for (type in names(type_names)) {
  case <- fit_case(set, link, type)
  if (!is.null(case)) cases <- c(cases, list(case))
}
write_cases(cases, "firth.json.gz")
message(length(cases), " cases; brglm2 ", packageVersion("brglm2"))
