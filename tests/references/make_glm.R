# Reference GLM fits of R (stats, MASS, sandwich, lmtest, statmod) on data sets that ship with R.
# Run in this directory: Rscript make_glm.R   -> glm.json.gz (fields: see __init__.py)

suppressPackageStartupMessages({
  library(MASS)
  library(sandwich)
  library(lmtest)
  library(statmod)
})
source("json.R")
options(contrasts = c("contr.treatment", "contr.treatment"), warn = 1)

tight <- glm.control(epsilon = 1e-13, maxit = 200)

# glm's stopping rule looks at the deviance, which is flat at the optimum: refit from the solution until the coefficients
# themselves stop moving.
glm_polished <- function(x, y, weights = rep(1, NROW(y)), start = NULL, etastart = NULL, mustart = NULL,
                         offset = rep(0, NROW(y)), family = gaussian(), control = list(), intercept = TRUE,
                         singular.ok = FALSE) {
  fit <- suppressWarnings(glm.fit(x, y, weights, start, etastart, mustart, offset, family, tight, intercept))
  best <- Inf
  for (i in 1:500) {
    again <- suppressWarnings(glm.fit(x, y, weights, fit$coefficients, NULL, NULL, offset, family, tight, intercept))
    step <- max(abs(again$coefficients - fit$coefficients) / pmax(abs(again$coefficients), 1e-8))
    fit <- again
    if (step == 0 || (step >= best && step < 1e-11)) break
    best <- min(best, step)
  }
  fit$polish <- step
  fit
}

# family, link: jaxirls names. r_family: what R fits. Options: weights, cluster, null (a nested formula for tests),
# new_data (rows to predict), profile, start.
fit_case <- function(name, source, formula, data, r_family, family, link, weights = NULL, parameters = list(),
                     scale = NULL, cluster = NULL, null = NULL, new_data = NULL, profile = FALSE, start = NULL,
                     estimate_theta = FALSE) {
  data <- as.data.frame(data)
  data$prior <- if (is.null(weights)) rep(1, nrow(data)) else weights
  environment(formula) <- environment()
  run <- function(f, fam = r_family, from = start) {
    environment(f) <- environment()
    eval(bquote(suppressWarnings(glm(.(f), family = fam, data = data, weights = prior, control = tight, start = from,
                                     method = glm_polished, x = TRUE, na.action = na.fail))))
  }
  theta <- NULL
  if (estimate_theta) {
    nb <- ml_negative_binomial(formula, data, run)
    fit <- nb$fit
    r_family <- fit$family
    theta <- nb$theta
    parameters$alpha <- 1 / theta
  } else {
    fit <- run(formula)
  }
  stopifnot(fit$converged, !anyNA(coef(fit)), fit$rank == ncol(fit$x))

  counts <- family == "Binomial" && is.matrix(model.response(fit$model))
  trials <- if (family == "Binomial" && (counts || !is.null(weights))) fit$prior.weights
  fixed <- is.null(scale) && family %in% c("Binomial", "Poisson", "NegativeBinomial")
  info <- summary(fit, dispersion = if (fixed) 1)
  quasi <- grepl("^quasi|Tweedie", r_family$family)
  small <- nrow(fit$x) <= 250

  out <- list(
    name = name, source = source, formula = paste(deparse(formula, 500), collapse = ""), family = family, link = link,
    parameters = if (length(parameters)) parameters, scale_rule = scale,
    columns = vec(colnames(fit$x)), X = unname(fit$x), y = vec(fit$y), trials = if (!is.null(trials)) vec(trials),
    weights = if (!is.null(weights) && is.null(trials)) vec(fit$prior.weights),
    offset = if (!is.null(fit$offset)) vec(fit$offset),
    params = vec(coef(fit)), bse = vec(info$coefficients[, 2]), cov = unname(info$cov.scaled),
    deviance = fit$deviance, null_deviance = fit$null.deviance, df_resid = fit$df.residual,
    scale = info$dispersion, pearson_chi2 = sum(residuals(fit, "pearson")^2),
    llf = if (!quasi) as.numeric(logLik(fit)), aic = if (!quasi) fit$aic, polish = fit$polish
  )
  if (estimate_theta) {
    out$theta <- theta
    out$theta_se <- nb$theta_se
    out$alpha_se <- nb$theta_se / theta^2
  }
  if (small) {
    out$residuals <- lapply(c(response = "response", pearson = "pearson", deviance = "deviance", working = "working"),
                            function(kind) vec(residuals(fit, kind)))
    # rstandard() takes its dispersion from the family's name; R's coefficient changes are built on deviance residuals.
    standardize <- function(kind) vec(residuals(fit, kind) / sqrt(info$dispersion * (1 - hatvalues(fit))))
    out$influence <- list(
      hat = vec(hatvalues(fit)),
      cooks_distance = vec(cooks.distance(fit, dispersion = info$dispersion)),
      rstandard_deviance = standardize("deviance"),
      rstandard_pearson = standardize("pearson"),
      dfbeta_deviance = unname(influence(fit)$coefficients)
    )
    if (!grepl("Negative Binomial", r_family$family)) {
      stopifnot(all.equal(as.vector(out$influence$rstandard_pearson), unname(rstandard(fit, type = "pearson"))))
      out$influence$rstudent <- vec(rstudent(fit))
    }
  }
  # vcovHC takes the score residuals as rowMeans(estfun / X), so a design with a zero is no trouble.
  if (!quasi || !is.null(scale)) {
    out$cov_hc <- lapply(c(HC0 = "HC0", HC1 = "HC1", HC2 = "HC2", HC3 = "HC3"),
                         function(type) unname(vcovHC(fit, type = type)))
  }
  if (!is.null(cluster)) {
    groups <- as.integer(factor(cluster)) - 1L
    one <- function(type, adjust) unname(vcovCL(fit, cluster = groups, type = type, cadjust = adjust))
    out$cluster <- list(groups = vec(groups), HC0 = one("HC0", FALSE), HC0_cadjust = one("HC0", TRUE),
                        HC1 = one("HC1", FALSE), HC1_cadjust = one("HC1", TRUE))
  }
  if (!is.null(null)) out$tests <- nested_tests(run(null, from = NULL), fit, info$dispersion)
  if (profile) out$profile <- profile_intervals(fit)
  if (!is.null(new_data)) out$prediction <- predictions(fit, new_data)
  message(sprintf("%-34s n %4d p %2d  last refit moved %.1e  iterations %d", name, nrow(fit$x), ncol(fit$x),
                  fit$polish, fit$iter))
  out
}

# glm.nb's alternation, carried on until theta and the coefficients are both stationary.
ml_negative_binomial <- function(formula, data, run) {
  first <- eval(bquote(glm.nb(.(formula), data = data)))
  theta <- first$theta
  fit <- run(formula, negative.binomial(theta))
  for (i in 1:200) {
    new <- theta.ml(fit$y, fitted(fit), limit = 100, eps = 1e-13 * theta)
    moved <- abs(as.numeric(new) / theta - 1)
    theta <- as.numeric(new)
    fit <- run(formula, negative.binomial(theta), coef(fit))
    if (moved < 1e-14) break
  }
  stopifnot(moved < 1e-12, abs(theta / first$theta - 1) < 1e-3)
  llf <- sum(dnbinom(fit$y, size = theta, mu = fitted(fit), log = TRUE))
  stopifnot(all.equal(llf, as.numeric(logLik(fit)), tolerance = 1e-13), llf >= first$twologlik / 2 - 1e-9)
  list(fit = fit, theta = theta, theta_se = as.numeric(attr(new, "SE")))
}

# Likelihood-ratio, Rao score and Wald tests of a nested model, the last also with the covariance HC3. R prints the statistics before, and their p-values after, the
# division by the larger model's dispersion; both are after it here.
nested_tests <- function(small, large, dispersion) {
  lr <- anova(small, large, test = "LRT", dispersion = dispersion)
  rao <- anova(small, large, test = "Rao", dispersion = dispersion)
  p_value <- pchisq(c(lr$Deviance[2], rao$Rao[2]) / dispersion, lr$Df[2], lower.tail = FALSE)
  stopifnot(all.equal(p_value, c(lr[["Pr(>Chi)"]][2], rao[["Pr(>Chi)"]][2]), tolerance = 1e-12))
  wald <- function(covariance) waldtest(small, large, vcov = covariance, test = "Chisq")$Chisq[2]
  list(columns_null = vec(colnames(small$x)), X_null = unname(small$x), df = lr$Df[2],
       lr = lr$Deviance[2] / dispersion, lr_pvalue = lr[["Pr(>Chi)"]][2],
       rao = rao$Rao[2] / dispersion, rao_pvalue = rao[["Pr(>Chi)"]][2],
       wald = wald(vcov(large)), wald_hc3 = wald(vcovHC(large, type = "HC3")), params_null = vec(coef(small)),
       deviance_null = small$deviance)
}

# Ends of the 95% profile-likelihood intervals, by root finding on exact constrained refits. MASS's confint() interpolates
# the same profile by a spline, and must agree to its own precision.
profile_intervals <- function(fit, level = 0.95) {
  dispersion <- summary(fit)$dispersion
  cut <- qchisq(level, 1)
  base <- if (is.null(fit$offset)) rep(0, length(fit$y)) else fit$offset
  se <- sqrt(diag(vcov(fit)))
  one <- function(j, sign) {
    excess <- function(value) {
      start <- coef(fit)[-j] + (value - coef(fit)[[j]]) * vcov(fit)[-j, j] / vcov(fit)[j, j]
      inner <- suppressWarnings(glm.fit(fit$x[, -j, drop = FALSE], fit$y, fit$prior.weights, start, NULL, NULL,
                                        base + fit$x[, j] * value, fit$family, tight))
      (inner$deviance - fit$deviance) / dispersion - cut
    }
    near <- coef(fit)[[j]] + sign * 0.5 * se[[j]]
    far <- coef(fit)[[j]] + sign * 3.5 * se[[j]]
    uniroot(excess, sort(c(near, far)), extendInt = if (sign > 0) "upX" else "downX",
            tol = 1e-13 * se[[j]])$root
  }
  ends <- t(vapply(seq_along(se), function(j) c(one(j, -1), one(j, 1)), c(0, 0)))
  plain <- fit
  plain$method <- "glm.fit"
  spline <- suppressMessages(confint(plain, level = level))
  message("  profile and spline differ by ", format(max(abs(ends - spline) / se), digits = 2), " standard errors")
  stopifnot(max(abs(ends - spline) / se) < 2e-2)
  list(level = level, conf_int = ends)
}

predictions <- function(fit, new_data) {
  X <- model.matrix(delete.response(terms(fit)), new_data, xlev = fit$xlevels)
  link <- predict(fit, new_data, type = "link", se.fit = TRUE)
  response <- predict(fit, new_data, type = "response", se.fit = TRUE)
  list(X = unname(X), linear = vec(link$fit), linear_se = vec(link$se.fit), mean = vec(response$fit),
       mean_se = vec(response$se.fit))
}

make_link <- function(name, link, inverse, derivative, valid = function(eta) TRUE) {
  structure(list(linkfun = link, linkinv = inverse, mu.eta = derivative, valideta = valid, name = name),
            class = "link-glm")
}
loglog <- make_link("loglog", function(mu) -log(-log(mu)), function(eta) exp(-exp(-eta)),
                    function(eta) exp(-eta - exp(-eta)))
logc <- make_link("logc", function(mu) log1p(-mu), function(eta) -expm1(eta), function(eta) -exp(eta),
                  function(eta) all(eta < 0))

# ---- the data ----
of <- function(package, name) {
  env <- new.env()
  data(list = name, package = package, envir = env)
  env[[name]]
}
swiss <- of("datasets", "swiss")
states <- as.data.frame(datasets::state.x77)
names(states) <- make.names(names(states))
airquality <- na.omit(datasets::airquality)
titanic <- subset(as.data.frame(datasets::Titanic), Freq > 0)
titanic$survived <- as.numeric(titanic$Survived == "Yes")
ucb <- datasets::UCBAdmissions
ucb <- data.frame(expand.grid(dimnames(ucb)[2:3]), admitted = c(ucb[1, , ]), rejected = c(ucb[2, , ]))
discoveries <- data.frame(count = as.numeric(datasets::discoveries), decade = (seq_along(datasets::discoveries) - 50) / 10)
hair <- as.data.frame(datasets::HairEyeColor)
esoph <- datasets::esoph
birthwt <- within(MASS::birthwt, { race <- factor(race); lwt <- lwt / 100; age <- age / 10 })
bacteria <- within(MASS::bacteria, infected <- as.numeric(y == "y"))
pima <- within(MASS::Pima.tr, diabetic <- as.numeric(type == "Yes"))
ships <- within(subset(MASS::ships, service > 0), { year <- factor(year); period <- factor(period) })
hills <- MASS::hills
epil <- within(MASS::epil, { lbase <- log(base / 4); lage <- log(age) })
boston <- MASS::Boston
cpus <- MASS::cpus
downs <- within(of("boot", "downs.bc"), age <- (age - 30) / 10)
nodal <- of("boot", "nodal")
poisons <- of("boot", "poisons")
boot_aids <- of("boot", "aids")
aids <- within(aggregate(y ~ year + quarter, subset(boot_aids, dud == 0), sum), t <- year - 83 + quarter / 4)
veteran <- survival::veteran
kidney <- survival::kidney
orthodont <- as.data.frame(nlme::Orthodont)
rock <- datasets::rock
quakes <- datasets::quakes
chickwts <- datasets::chickwts

B <- function(link) binomial(link = link)

cases <- list(
  # Gaussian
  fit_case("swiss_gaussian_identity", "datasets::swiss", Fertility ~ Agriculture + Examination + Education + Catholic +
             Infant.Mortality, swiss, gaussian(), "Gaussian", "Identity", null = Fertility ~ Education + Catholic,
           new_data = swiss[1:5, ] * 1.1),
  fit_case("anorexia_gaussian_offset", "MASS::anorexia", Postwt ~ Prewt + Treat + offset(Prewt), MASS::anorexia,
           gaussian(), "Gaussian", "Identity"),
  fit_case("trees_gaussian_log", "datasets::trees", Volume ~ log(Girth) + log(Height), datasets::trees,
           gaussian("log"), "Gaussian", "Log", start = c(-6, 2, 1)),
  fit_case("puromycin_gaussian_inverse", "datasets::Puromycin", rate ~ I(1 / conc) + state, datasets::Puromycin,
           gaussian("inverse"), "Gaussian", "InversePower"),
  fit_case("states_gaussian_weighted", "datasets::state.x77", Income ~ Illiteracy + HS.Grad + Frost, states, gaussian(),
           "Gaussian", "Identity", weights = states$Population / 1000),
  fit_case("orthodont_gaussian_cluster", "nlme::Orthodont", distance ~ age * Sex, orthodont, gaussian(), "Gaussian",
           "Identity", cluster = as.character(orthodont$Subject)),
  # Binomial, 0/1
  fit_case("infert_logit", "datasets::infert", case ~ spontaneous + induced, datasets::infert, B("logit"), "Binomial",
           "Logit", cluster = datasets::infert$stratum),
  fit_case("birthwt_logit", "MASS::birthwt", low ~ age + lwt + race + smoke + ht + ui, birthwt, B("logit"), "Binomial",
           "Logit", null = low ~ lwt + smoke, profile = TRUE, new_data = birthwt[c(1, 50, 100, 150), ]),
  fit_case("birthwt_probit", "MASS::birthwt", low ~ age + lwt + race + smoke + ht + ui, birthwt, B("probit"),
           "Binomial", "Probit", null = low ~ lwt + smoke),
  fit_case("birthwt_cauchit", "MASS::birthwt", low ~ age + lwt + race + smoke + ht + ui, birthwt, B("cauchit"),
           "Binomial", "Cauchy"),
  fit_case("birthwt_cloglog", "MASS::birthwt", low ~ age + lwt + race + smoke + ht + ui, birthwt, B("cloglog"),
           "Binomial", "CLogLog", null = low ~ lwt + smoke, profile = TRUE),
  fit_case("birthwt_loglog", "MASS::birthwt", low ~ age + lwt + race + smoke + ht + ui, birthwt, B(loglog), "Binomial",
           "LogLog"),
  fit_case("birthwt_log", "MASS::birthwt", low ~ race + smoke + age, birthwt, B("log"), "Binomial", "Log",
           start = c(-1, 0, 0, 0, 0)),
  fit_case("birthwt_logc", "MASS::birthwt", low ~ race + smoke, birthwt, B(logc), "Binomial", "LogC",
           start = c(-0.4, 0, 0, 0)),
  fit_case("pima_probit", "MASS::Pima.tr", diabetic ~ npreg + glu + bp + skin + bmi + ped + age, pima, B("probit"),
           "Binomial", "Probit", new_data = MASS::Pima.te[1:6, ]),
  fit_case("nodal_logit", "boot::nodal", r ~ aged + stage + grade + xray + acid, nodal, B("logit"), "Binomial",
           "Logit", profile = TRUE, null = r ~ stage + xray + acid),
  fit_case("bacteria_logit_cluster", "MASS::bacteria", infected ~ trt + week, bacteria, B("logit"), "Binomial", "Logit",
           cluster = as.character(bacteria$ID)),
  # Binomial, counts out of trials
  fit_case("menarche_probit", "MASS::menarche", cbind(Menarche, Total - Menarche) ~ Age, MASS::menarche, B("probit"),
           "Binomial", "Probit"),
  fit_case("menarche_logit", "MASS::menarche", cbind(Menarche, Total - Menarche) ~ Age, MASS::menarche, B("logit"),
           "Binomial", "Logit"),
  fit_case("esoph_logit", "datasets::esoph", cbind(ncases, ncontrols) ~ agegp + unclass(tobgp) + unclass(alcgp), esoph,
           B("logit"), "Binomial", "Logit"),
  fit_case("snails_cloglog", "MASS::snails", cbind(Deaths, N - Deaths) ~ Species + Exposure + Rel.Hum + Temp,
           MASS::snails, B("cloglog"), "Binomial", "CLogLog"),
  fit_case("snails_quasibinomial", "MASS::snails", cbind(Deaths, N - Deaths) ~ Species + Exposure + Rel.Hum + Temp,
           MASS::snails, quasibinomial(), "Binomial", "Logit", scale = "X2"),
  fit_case("downs_log", "boot::downs.bc", cbind(r, m - r) ~ age + I(age^2), downs, B("log"), "Binomial", "Log"),
  fit_case("ucb_cauchit", "datasets::UCBAdmissions", cbind(admitted, rejected) ~ Gender + Dept, ucb, B("cauchit"),
           "Binomial", "Cauchy"),
  fit_case("titanic_logit_frequencies", "datasets::Titanic", survived ~ Class + Sex + Age, titanic, B("logit"),
           "Binomial", "Logit", weights = titanic$Freq),
  # Poisson
  fit_case("warpbreaks_poisson_log", "datasets::warpbreaks", breaks ~ wool * tension, datasets::warpbreaks, poisson(),
           "Poisson", "Log", null = breaks ~ wool + tension, profile = TRUE),
  fit_case("warpbreaks_quasipoisson", "datasets::warpbreaks", breaks ~ wool * tension, datasets::warpbreaks,
           quasipoisson(), "Poisson", "Log", scale = "X2"),
  fit_case("warpbreaks_poisson_identity", "datasets::warpbreaks", breaks ~ wool + tension, datasets::warpbreaks,
           poisson("identity"), "Poisson", "Identity"),
  fit_case("insects_poisson_sqrt", "datasets::InsectSprays", count ~ spray, datasets::InsectSprays, poisson("sqrt"),
           "Poisson", "Sqrt"),
  fit_case("insurance_poisson_offset", "MASS::Insurance", Claims ~ District + Group + Age + offset(log(Holders)),
           MASS::Insurance, poisson(), "Poisson", "Log", null = Claims ~ District + Group + offset(log(Holders))),
  fit_case("ships_quasipoisson_offset", "MASS::ships", incidents ~ type + year + period + offset(log(service)), ships,
           quasipoisson(), "Poisson", "Log", scale = "X2"),
  fit_case("discoveries_poisson_log", "datasets::discoveries", count ~ decade + I(decade^2), discoveries, poisson(),
           "Poisson", "Log"),
  fit_case("hair_poisson_loglinear", "datasets::HairEyeColor", Freq ~ (Hair + Eye + Sex)^2, hair, poisson(), "Poisson",
           "Log"),
  fit_case("quakes_poisson_log", "datasets::quakes", stations ~ mag + depth, quakes, poisson(), "Poisson", "Log"),
  fit_case("epil_poisson_cluster", "MASS::epil", y ~ lbase * trt + lage + V4, epil, poisson(), "Poisson", "Log",
           cluster = epil$subject),
  fit_case("aids_quasi_power", "boot::aids", y ~ t, aids, quasi(link = power(1 / 3), variance = "mu"), "Poisson",
           "Power", parameters = list(link_power = 1 / 3), scale = "X2"),
  # Gamma
  fit_case("toothgrowth_gamma_inverse", "datasets::ToothGrowth", len ~ supp * dose, datasets::ToothGrowth, Gamma(),
           "Gamma", "InversePower"),
  fit_case("airquality_gamma_log", "datasets::airquality", Ozone ~ Solar.R + Wind + Temp, airquality, Gamma("log"),
           "Gamma", "Log", null = Ozone ~ Wind),
  fit_case("hills_gamma_identity", "MASS::hills", time ~ dist + climb, hills, Gamma("identity"), "Gamma", "Identity"),
  fit_case("states_gamma_weighted", "datasets::state.x77", Murder ~ Illiteracy + HS.Grad + Frost, states, Gamma("log"),
           "Gamma", "Log", weights = states$Population / 1000),
  fit_case("faithful_gamma_log", "datasets::faithful", eruptions ~ waiting, datasets::faithful, Gamma("log"), "Gamma",
           "Log"),
  fit_case("veteran_gamma_log", "survival::veteran", time ~ trt + celltype + karno + age, veteran, Gamma("log"),
           "Gamma", "Log"),
  fit_case("boston_gamma_log", "MASS::Boston", medv ~ lstat + rm + ptratio + chas + nox, boston, Gamma("log"), "Gamma",
           "Log"),
  fit_case("rock_quasi_log_mu2", "datasets::rock", perm ~ log(area) + log(peri) + shape, rock,
           quasi(link = "log", variance = "mu^2"), "Gamma", "Log", scale = "X2"),
  # inverse Gaussian
  fit_case("chickwts_ig_inverse_squared", "datasets::chickwts", weight ~ feed, chickwts, inverse.gaussian(),
           "InverseGaussian", "InverseSquared"),
  fit_case("poisons_ig_inverse", "boot::poisons", time ~ poison + treat, poisons, inverse.gaussian("inverse"),
           "InverseGaussian", "InversePower"),
  fit_case("airquality_ig_log", "datasets::airquality", Ozone ~ Wind + Temp, airquality, inverse.gaussian("log"),
           "InverseGaussian", "Log"),
  fit_case("kidney_ig_log_cluster", "survival::kidney", time ~ age + sex + disease, kidney, inverse.gaussian("log"),
           "InverseGaussian", "Log", cluster = kidney$id),
  # negative binomial
  fit_case("quine_nb_ml", "MASS::quine", Days ~ Eth + Sex + Age + Lrn, MASS::quine, NULL, "NegativeBinomial", "Log",
           estimate_theta = TRUE),
  fit_case("epil_nb_ml", "MASS::epil", y ~ lbase * trt + lage + V4, epil, NULL, "NegativeBinomial", "Log",
           estimate_theta = TRUE),
  fit_case("warpbreaks_nb_ml", "datasets::warpbreaks", breaks ~ wool + tension, datasets::warpbreaks, NULL,
           "NegativeBinomial", "Log", estimate_theta = TRUE),
  fit_case("quine_nb_theta2", "MASS::quine", Days ~ Eth + Sex + Age + Lrn, MASS::quine, negative.binomial(2),
           "NegativeBinomial", "Log", parameters = list(alpha = 0.5)),
  fit_case("quakes_nb_theta20_sqrt", "datasets::quakes", stations ~ mag + depth, quakes,
           negative.binomial(20, link = "sqrt"), "NegativeBinomial", "Sqrt", parameters = list(alpha = 0.05)),
  fit_case("insects_nb_identity", "datasets::InsectSprays", count ~ spray, datasets::InsectSprays,
           negative.binomial(5, link = "identity"), "NegativeBinomial", "Identity", parameters = list(alpha = 0.2)),
  # Tweedie
  fit_case("quine_tweedie15_log", "MASS::quine", Days ~ Eth + Sex + Age + Lrn, MASS::quine,
           tweedie(var.power = 1.5, link.power = 0), "Tweedie", "Log", parameters = list(power = 1.5), scale = "X2"),
  fit_case("epil_tweedie12_power", "MASS::epil", y ~ lbase + trt + lage, epil, tweedie(var.power = 1.2, link.power = 0.25),
           "Tweedie", "Power", parameters = list(power = 1.2, link_power = 0.25), scale = "X2"),
  fit_case("cpus_tweedie25_log", "MASS::cpus", perf ~ log(mmax) + log(syct) + cach, cpus,
           tweedie(var.power = 2.5, link.power = 0), "Tweedie", "Log", parameters = list(power = 2.5), scale = "X2")
)
stopifnot(vapply(cases, `[[`, 0, "polish") < 1e-10, !anyDuplicated(vapply(cases, `[[`, "", "name")))
write_cases(cases, "glm.json.gz")
message(length(cases), " cases on ", length(unique(vapply(cases, `[[`, "", "source"))), " data sets; ", R.version.string)
