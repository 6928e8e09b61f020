//! What a network loses by predicting otherwise than another one.

use tch::{Kind, Tensor};

/// Mean over images and pixels of the cross entropy between the classes that `teacher` and `student` predict, logits `[B, K, ...]`
/// divided by `temperature`; times its square, so that the gradients of all temperatures are of one size (Hinton et al. 2015,
/// arXiv 1503.02531).
pub fn distillation(teacher: &Tensor, student: &Tensor, temperature: f64) -> Tensor {
    let softer = |logits: &Tensor| if temperature == 1.0 { logits.shallow_clone() } else { logits / temperature };
    let (teacher, student) = (softer(teacher).softmax(1, Kind::Float), softer(student).log_softmax(1, Kind::Float));
    let loss = -(teacher * student).sum_dim_intlist(1, false, None::<Kind>).mean(None::<Kind>);
    if temperature == 1.0 { loss } else { loss * (temperature * temperature) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entropy(logits: &[f64]) -> f64 {
        let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
        logits.iter().map(|logit| logit.exp() / total * (total.ln() - logit)).sum()
    }

    fn value(loss: &Tensor) -> f64 {
        loss.double_value(&[])
    }

    #[test]
    fn it_is_least_where_both_say_the_same() {
        let teacher = Tensor::from_slice(&[2.0f32, -1.0, 0.5, 0.0, 1.0, 3.0]).view([2, 3, 1, 1]);
        let expected = (entropy(&[2.0, -1.0, 0.5]) + entropy(&[0.0, 1.0, 3.0])) / 2.0;
        let same = distillation(&teacher, &(&teacher + 7.0), 1.0);
        assert!((value(&same) - expected).abs() < 1e-6, "{same:?}");
        let student = teacher.copy().set_requires_grad(true);
        distillation(&teacher, &student, 1.0).backward();
        assert!(student.grad().abs().max().double_value(&[]) < 1e-6, "no gradient where nothing is left to learn");
        assert!(value(&distillation(&teacher, &(&teacher * 0.5), 1.0)) > expected);
    }

    #[test]
    fn a_temperature_softens_both_and_keeps_the_size_of_gradients() {
        let teacher = Tensor::from_slice(&[2.0f32, -1.0, 0.5]).view([1, 3]);
        let expected = 4.0 * entropy(&[1.0, -0.5, 0.25]);
        assert!((value(&distillation(&teacher, &teacher, 2.0)) - expected).abs() < 1e-6);
        // Of high temperatures the gradient is (student - teacher) / K where both have mean 0 (section 2.1 of the paper).
        let student = Tensor::zeros([1, 3], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
        distillation(&teacher, &student, 100.0).backward();
        let centred = &teacher - teacher.mean(None::<Kind>);
        assert!(student.grad().allclose(&(-centred / 3.0), 0.0, 0.02, false), "{:?}", student.grad());
    }
}
