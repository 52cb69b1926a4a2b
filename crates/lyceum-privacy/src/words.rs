//! What a guarantee means, for people who do not know the letters.

use crate::account::Guarantee;

/// One paragraph: what an attacker gains at most, and what is not promised.
pub fn statement(guarantee: &Guarantee, unit: &str) -> String {
    let Guarantee { epsilon, delta, .. } = *guarantee;
    if !epsilon.is_finite() {
        return format!(
            "No privacy is promised: whoever holds the model may learn anything about any {unit}."
        );
    }
    // Posterior of an attacker whose prior was even: e^ε / (1 + e^ε) (of pure differential privacy).
    let belief = 100.0 / (1.0 + (-epsilon).exp());
    // Advantage of any test at even odds: (e^ε − 1 + 2δ)/(e^ε + 1) (Kairouz, Oh & Viswanath 2015).
    let advantage = ((epsilon.exp_m1() + 2.0 * delta) / (epsilon.exp() + 1.0)).min(1.0);
    let success = 50.0 * (1.0 + advantage);
    let strength = match epsilon {
        e if e <= 1.0 => "a strong guarantee",
        e if e <= 3.0 => "a good guarantee",
        e if e <= 10.0 => "a moderate guarantee",
        _ => "a weak guarantee",
    };
    format!(
        "Adding or removing one {unit} changes the probability of any outcome of training by a factor of at \
         most e^{epsilon:.3} = {:.3}, but for a probability of {delta:e}: {strength}. Somebody who thought it \
         even whether one {unit} was trained on, and who sees the whole model, can be at most {belief:.1} % sure \
         afterwards, and guesses right in at most {success:.1} % of cases. This says nothing about what is true \
         of the population as a whole, and nothing about a person with several rows unless the {unit} is the \
         person.",
        epsilon.exp()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Accountant;

    #[test]
    fn the_numbers_are_those_of_the_guarantee() {
        let guarantee =
            |epsilon| Guarantee { epsilon, delta: 1e-5, accountant: Accountant::Pld, order: None };
        let text = statement(&guarantee(1.0), "row");
        assert!(text.contains("73.1 % sure") && text.contains("73.1 % of cases"), "{text}");
        assert!(text.contains("one row") && text.contains("1e-5"), "{text}");
        assert!(statement(&guarantee(f64::INFINITY), "row").starts_with("No privacy"));
        for epsilon in [1.0, f64::INFINITY] {
            let text = statement(&guarantee(epsilon), "example");
            assert!(!text.contains(" a example"), "{text}");
        }
    }
}
